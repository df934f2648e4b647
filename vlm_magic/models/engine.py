"""A transformers model that stays in the kernel and answers conversations.

Three storeys, each public: `LocalEngine.start` queues an answer and returns its handle,
`LocalEngine.stream` yields its chunks, `LocalEngine.generate` waits for its reply. How a family
wants its inputs is `families`' business, what fits in memory is `memory`'s; no cells, no widgets here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from vlm_magic.errors import ContextLengthError, GenerationError, ModelError, PromptError, VLMError
from vlm_magic.messages import (
    Bill,
    Chunk,
    FinishReason,
    Picture,
    Progress,
    Reply,
    Settings,
    Turn,
    Turns,
    turns_now,
)
from vlm_magic.models import families, memory
from vlm_magic.models.detokenizer import Detokenizer
from vlm_magic.models.generation import Generation, Stopped, WorkQueue
from vlm_magic.models.loading import Loaded
from vlm_magic.models.reuse import Fitted, Reuse
from vlm_magic.models.scoring import Score, score_choices

__all__ = ["LocalEngine"]


class LocalEngine:
    """A loaded model with its queue of answers.

    Args:
        loaded: what `vlm_magic.models.loading.load_model` returned.

    Attributes:
        loaded: the model, its processor and how it was loaded; None after `close`.
        last_reply: the newest reply, for the status.
        reuse: what it has computed before, kept for prompts that begin alike.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded: Loaded | None = loaded
        self.last_reply: Reply | None = None
        self.reuse = Reuse(loaded)
        self._name = loaded.name
        self._queue = WorkQueue(loaded.name)

    @property
    def name(self) -> str:
        """How people call the model."""
        return self._name

    @property
    def is_closed(self) -> bool:
        """Whether the model was unloaded."""
        return self.loaded is None

    @property
    def model(self) -> Any:
        """The transformers model itself."""
        return self._resident().model

    @property
    def processor(self) -> Any:
        """The transformers processor itself."""
        return self._resident().processor

    def start(
        self,
        turns: Turns,
        settings: Settings | None = None,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generation:
        """Queue an answer to ``turns`` (the last one is the question) and return at once.

        ``turns`` given as a function are looked up when the answer's time has come.

        Raises:
            ModelError: the engine was closed.
        """
        self._resident()
        how = self._settings(settings)
        return self._queue.submit(
            lambda generation: self._answer(generation, turns_now(turns), how),
            on_end=on_end,
            on_progress=on_progress,
        )

    def stream(self, turns: Turns, settings: Settings | None = None) -> Iterator[Chunk]:
        """The chunks of an answer; the last one carries the reply. Closing the iterator stops it."""
        yield from self.start(turns, settings)

    def generate(self, turns: Turns, settings: Settings | None = None) -> Reply:
        """The whole answer."""
        generation = self.start(turns, settings)
        for _ in generation:
            pass
        assert generation.reply is not None
        return generation.reply

    def score(
        self,
        turns: Turns,
        choices: Sequence[str],
        settings: Settings | None = None,
        *,
        with_end: bool = True,
    ) -> tuple[Score, ...]:
        """How likely each choice is as the next reply: log-probabilities of whole sequences.

        Args:
            turns: the conversation, the question last.
            choices: the replies to compare.
            settings: system text and the like.
            with_end: whether the token that ends an answer counts; without it a choice that begins
                another one is always the likelier of the two.

        Raises:
            PromptError: no choices, or one without a token.
        """
        if not choices:
            raise PromptError("no choices to score", hint='score(turns, ["yes", "no"])')
        self._resident()
        how = self._settings(settings)
        scores: list[Score] = []

        def work(generation: Generation) -> Reply:
            def leave_if_stopped() -> None:
                if generation.is_stopped:
                    raise Stopped

            loaded = self._resident()
            with self._explained(loaded), _hooks_on_layers(loaded.model, lambda *_: leave_if_stopped()):
                scores.extend(
                    score_choices(
                        loaded,
                        self.reuse,
                        turns_now(turns),
                        choices,
                        how,
                        with_end=with_end,
                        check=leave_if_stopped,
                    )
                )
            return Reply(max(scores, key=lambda score: score.log_probability).choice, model=self.name)

        for _ in self._queue.submit(work):
            pass
        return tuple(scores)

    def bill(self, turns: Sequence[Turn], settings: Settings | None = None) -> Bill:
        """What the prompt would be and cost; generates nothing."""
        loaded = self._resident()
        prepared = families.prepare(loaded, turns, settings or Settings())
        return Bill(
            n_tokens=int(prepared.inputs["input_ids"].shape[1]),
            picture_tokens=tuple(prepared.n_picture_tokens),
            context_tokens=families.context_tokens(loaded),
            rendered=prepared.rendered,
            notes=tuple(prepared.notes),
        )

    def close(self) -> int:
        """Unload: stop what runs, give the memory back; the number of bytes that were freed."""
        if self.loaded is None:
            return 0
        self._queue.close()
        loaded, self.loaded = self.loaded, None
        self.reuse.clear()
        return memory.release(loaded)

    def _settings(self, settings: Settings | None) -> Settings:
        """The settings, with the checkpoint's own sampling where the model was loaded to use it."""
        how = settings or Settings()
        if self._resident().options.sampling and not how.is_sampling and how.beams == 1:
            return replace(how, sampling=True)
        return how

    def _resident(self) -> Loaded:
        if self.loaded is None:
            raise ModelError(f"{self._name} was unloaded", hint="%vlm_load, or vlm_magic.load()")
        return self.loaded

    def _answer(self, generation: Generation, turns: tuple[Turn, ...], settings: Settings) -> Reply:
        """Prepare, generate, sum up; runs in the worker."""
        loaded = self._resident()
        began = time.perf_counter()
        with self._explained(loaded):
            generation.report(Progress("pictures"))
            prepared = self.reuse.prepare(turns, settings)
            self._check_length(loaded, int(prepared.inputs["input_ids"].shape[1]), settings)
            pictures = [picture for turn in turns for picture in turn.pictures]
            run = _Run(loaded, prepared, settings, generation, began)
            reply = run.generate(self.reuse, pictures)
        self.last_reply = reply
        return reply

    @contextmanager
    def _explained(self, loaded: Loaded) -> Iterator[None]:
        """Whatever fails inside becomes one of our errors; out of memory empties the stores as well."""
        try:
            yield
        except VLMError:
            raise
        except Exception as error:
            if memory.is_out_of_memory(error):
                self.reuse.clear()
                raise memory.out_of_memory(error, loaded, what=f"{loaded.name} ran out of memory") from None
            raise GenerationError(
                f"{loaded.name} failed while answering: {type(error).__name__}: {error}",
                hint="VLM_MAGIC_TRACEBACK=1 in the environment shows where",
            ) from error

    @staticmethod
    def _check_length(loaded: Loaded, n_tokens: int, settings: Settings) -> None:
        limit = families.context_tokens(loaded)
        if limit is None or n_tokens < limit:
            return
        raise ContextLengthError(
            f"the prompt has {n_tokens} tokens, {loaded.name} takes {limit}",
            have="nothing was trimmed; every turn and picture of the conversation counts",
            hint="--new for a fresh conversation, fewer or smaller pictures, or %%vlm --dry-run for the bill",
            n_tokens=n_tokens,
            context_tokens=limit,
        )


class _Run(BaseStreamer, StoppingCriteria):
    """One call of ``model.generate``: takes its tokens, ends it, sums it up.

    As streamer it sees the prompt first and then every token; as stopping criterion it looks at the
    stop flag and the clock after every token; while the prompt is computed, hooks on the layers look.
    """

    def __init__(
        self, loaded: Loaded, prepared: Any, settings: Settings, generation: Generation, began: float
    ) -> None:
        self._loaded = loaded
        self._prepared = prepared
        self._settings = settings
        self._generation = generation
        self._began = began
        self._deadline = None if settings.time_limit_s is None else began + settings.time_limit_s
        self._stop_ids = families.stop_token_ids(loaded, settings)
        tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        self._detokenizer = Detokenizer(tokenizer, stop=settings.stop, strip=not settings.continuation)
        self._first_token_s: float | None = None
        self._n_tokens = 0
        self._all_ids: list[int] = []
        self._fitted: Fitted | None = None
        self._saw_prompt = False
        self._ended_by: FinishReason | None = None
        self._remove_hooks: Callable[[], None] | None = None

    # What transformers calls

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt (the first call) or one new token."""
        if not self._saw_prompt:
            self._saw_prompt = True
            return
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._began
            self._generation.report(Progress("decode"))
            if self._remove_hooks is not None:
                self._remove_hooks()
        token_id = int(value.reshape(-1)[-1])
        self._n_tokens += 1
        self._all_ids.append(token_id)
        if token_id in self._stop_ids:
            self._ended_by = "stop"
            return
        piece = self._detokenizer.add(token_id)
        if piece:
            self._generation.push(Chunk(piece, self._n_tokens))

    def end(self) -> None:
        """Called by transformers at the end; the summing up comes later."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether to stop, for each row: (B,) bool."""
        self._look()
        is_over = self._ended_by is not None or self._detokenizer.is_stopped
        return torch.full((input_ids.shape[0],), is_over, device=input_ids.device, dtype=torch.bool)

    def _look(self) -> None:
        """Note a stop that was asked for or a deadline that has passed."""
        if self._ended_by is None and self._generation.is_stopped:
            self._ended_by = "interrupted"
        elif self._ended_by is None and self._deadline is not None and time.perf_counter() > self._deadline:
            self._ended_by = "time"

    def _leave_if_stopped(self, *_: Any) -> None:
        """The layers' hook: leave a forward that is no longer wanted."""
        self._look()
        if self._ended_by in ("interrupted", "time"):
            raise Stopped

    # The work itself

    def generate(self, reuse: Reuse, pictures: Sequence[Picture]) -> Reply:
        """Run the model to the end, to a limit or to a stop, and sum up."""
        model, settings = self._loaded.model, self._settings
        self._generation.report(Progress("prefill", 0, self._n_prompt_tokens))
        config = self._generation_config()
        options: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([self])}
        if settings.beams == 1:
            options["streamer"] = self  # transformers refuses a streamer with beams
        if settings.stop or settings.bad_words:
            options["tokenizer"] = self._detokenizer._tokenizer
        output: torch.Tensor | None = None
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(_own_generation_config(model, config))
            self._remove_hooks = stack.enter_context(_hooks_on_layers(model, self._leave_if_stopped))
            if settings.seed is not None:
                stack.enter_context(torch.random.fork_rng())
                torch.manual_seed(settings.seed)
            with suppress(Stopped):
                self._fitted = reuse.fit(self._prepared, pictures, use_cache=settings.beams == 1)
                output = model.generate(**self._fitted.inputs, **options)  # (B, T) int64
            if self._fitted is not None:
                reuse.keep(self._fitted, self._all_ids)
        if settings.beams > 1 and output is not None:
            self._take_all(output)
        tail = self._detokenizer.finish()
        if tail:
            self._generation.push(Chunk(tail, self._n_tokens))
        return self._sum_up()

    def _take_all(self, output: torch.Tensor) -> None:
        """Feed the best beam through the detokenizer, as if it had been streamed."""
        n_prompt = 0 if self._loaded.model.config.is_encoder_decoder else self._n_prompt_tokens
        self._saw_prompt = True
        ended_by, self._ended_by = self._ended_by, None
        for token_id in output[0, n_prompt:].tolist():
            if token_id in self._stop_ids:
                self._ended_by = "stop"
                break
            self.put(torch.tensor([token_id]))
        self._ended_by = ended_by or self._ended_by

    @property
    def _n_prompt_tokens(self) -> int:
        return int(self._prepared.inputs["input_ids"].shape[1])

    def _generation_config(self) -> GenerationConfig:
        """Ours alone: greedy unless asked, with nothing of the checkpoint's own but its token ids."""
        settings, model = self._settings, self._loaded.model
        theirs = model.generation_config
        own: dict[str, Any] = {
            "max_new_tokens": settings.max_tokens,
            "do_sample": settings.is_sampling,
            "num_beams": settings.beams,
            "eos_token_id": list(self._stop_ids) or None,
            "pad_token_id": _pad_token_id(theirs, self._stop_ids),
            "bos_token_id": theirs.bos_token_id,
            "decoder_start_token_id": theirs.decoder_start_token_id,
            "suppress_tokens": families.forbidden_token_ids(self._loaded) or None,
            "use_cache": True,
        }
        if settings.sampling:
            for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty"):
                own[name] = getattr(theirs, name, None)
        asked = {
            "temperature": settings.temperature or None,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
            "repetition_penalty": settings.repetition_penalty,
        }
        own.update({name: value for name, value in asked.items() if value is not None})
        if settings.is_sampling and not settings.sampling and settings.top_k is None:
            own["top_k"] = 0  # transformers' default of 50 is a filter that nobody asked for
        if settings.bad_words:
            tokenizer = self._detokenizer._tokenizer
            own["bad_words_ids"] = [
                tokenizer(variant, add_special_tokens=False).input_ids
                for word in settings.bad_words
                for variant in (word, f" {word}")  # at the beginning of a line, and within one
            ]
        return GenerationConfig(**{name: value for name, value in own.items() if value is not None})

    def _sum_up(self) -> Reply:
        total_s = time.perf_counter() - self._began
        ttft_s = self._first_token_s if self._first_token_s is not None else total_s
        ids = tuple(self._detokenizer.ids)
        self._look()
        reason: FinishReason = self._ended_by or ("stop" if self._detokenizer.is_stopped else "length")
        decode_s = total_s - ttft_s
        return Reply(
            text=self._detokenizer.text,
            finish_reason=reason,
            n_prompt_tokens=self._n_prompt_tokens,
            n_picture_tokens=sum(self._prepared.n_picture_tokens),
            n_reused_tokens=0 if self._fitted is None else self._fitted.n_reused,
            n_new_tokens=self._n_tokens,
            ttft_s=ttft_s,
            tokens_per_s=(self._n_tokens - 1) / decode_s if self._n_tokens > 1 and decode_s > 0 else 0.0,
            total_s=total_s,
            model=self._loaded.name,
            notes=tuple(self._prepared.notes),
            token_ids=ids,
        )


def _pad_token_id(theirs: GenerationConfig, stop_ids: Sequence[int]) -> int | None:
    """Any id does for a single row, but transformers warns when there is none."""
    if theirs.pad_token_id is not None:
        return int(theirs.pad_token_id)
    return stop_ids[0] if stop_ids else 0


@contextmanager
def _own_generation_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Generate with ``config`` alone: transformers fills every gap from the checkpoint's own."""
    theirs = [(part, part.generation_config) for part in families.generating_parts(model)]
    try:
        for part, _ in theirs:
            part.generation_config = config
        yield
    finally:
        for part, own in theirs:
            part.generation_config = own


@contextmanager
def _hooks_on_layers(model: Any, hook: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """Call ``hook`` before every layer of every stack (language model and vision tower alike)."""
    handles = [
        layer.register_forward_pre_hook(hook)
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList)
        for layer in module
    ]

    def remove() -> None:
        for handle in handles:
            handle.remove()
        handles.clear()

    try:
        yield remove
    finally:
        remove()
