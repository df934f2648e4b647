"""Constrained decoding: which tokens may come next, so that the whole answer fits a schema or a pattern.

`Settings.grammar` is the grammar; `grammar_processors` makes what holds ``generate`` to it. A row's state is
looked up by the tokens that it has said, not by its index, so that batches and beams (which are reordered
at every step) need no code of their own.

Knows tokenizers and scores; knows nothing of Python's types, which are `vlm_magic.tasks.schemas`' business.
Neighbours: `single` and the batches call ``generate`` with these processors.

Source: llguidance (the "derivative" parser over the tokenizer's own bytes); its mask is applied with plain
tensor operations, because its own helper compiles a kernel first.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import LogitsProcessor

from vlm_magic.errors import GenerationError, ModelKindError, OptionError
from vlm_magic.messages import Settings
from vlm_magic.models.prompts import token_ids
from vlm_magic.wording import shorten

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from vlm_magic.models.loaded import Loaded

__all__ = ["GrammarProcessor", "check_grammar", "grammar_processors", "is_whole", "plain_code"]

_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write each value: where white space is free, small models may write it without end."""

_PROBE = 'Two cafés {"n": -1.5} <b>'  # text that a tokenizer must give back byte by byte


@dataclass(frozen=True)
class _Tokens:
    """A tokenizer as llguidance reads it, and its tokens that are a single space."""

    tokenizer: LLTokenizer
    blank_ids: tuple[int, ...]


_tokenizers: WeakKeyDictionary[Any, _Tokens] = WeakKeyDictionary()


def check_grammar(loaded: Loaded, grammar: str) -> None:
    """Raise where the model cannot be held to ``grammar``, before anything is asked.

    Args:
        loaded: the model.
        grammar: see `vlm_magic.messages.Settings`.

    Raises:
        ModelKindError: the tokenizer cannot be read byte by byte.
        OptionError: the grammar is not understood, or no text fits it.
    """
    _compile(loaded, grammar)


def grammar_processors(loaded: Loaded, settings: Settings) -> list[LogitsProcessor]:
    """What holds one call of ``generate`` to the settings' grammar; empty where there is none."""
    if not settings.grammar:
        return []
    matcher, stops = _compile(loaded, settings.grammar), token_ids.stop_token_ids(loaded, settings)
    blanks = _tokenizer(loaded).blank_ids
    return [GrammarProcessor(matcher, stops, len(loaded.tokenizer), blank_ids=blanks)]


def is_whole(loaded: Loaded, grammar: str, token_ids: Sequence[int]) -> bool:
    """Whether these tokens are a whole answer that cannot go on, though no end token was said."""
    matcher = _compile(loaded, grammar)
    return bool(matcher.consume_tokens(list(token_ids)) and matcher.is_accepting() and matcher.is_stopped())


def plain_code(loaded: Loaded, settings: Settings) -> list[str]:
    """A logits processor in a few lines that does what `GrammarProcessor` does, for people to read.

    It reads every row from its beginning at every step, which is slower but keeps no state.
    """
    stops = token_ids.stop_token_ids(loaded, settings)
    blanks = list(_tokenizer(loaded).blank_ids)
    return [
        f"grammar = {_in_their_words(settings.grammar)!a}",
        f"tokens = from_tokenizer(processor.tokenizer, n_vocab=len(processor.tokenizer), eos_token={stops})",
        "n_prompt = None  # the tokens before the answer, as the first call shows them",
        "",
        "",
        "class HeldToAType(LogitsProcessor):",
        '    """Leaves the tokens that the grammar allows after what each row has said."""',
        "",
        "    def __call__(self, input_ids, scores):",
        "        global n_prompt",
        "        n_prompt = input_ids.shape[1] if n_prompt is None else n_prompt",
        "        held = torch.full_like(scores, -torch.inf)",
        "        for row, said in enumerate(input_ids[:, n_prompt:].tolist()):",
        "            matcher = LLMatcher(tokens, grammar, log_level=0)",
        "            matcher.consume_tokens(said)",
        "            mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)",
        '            allowed = np.unpackbits(mask, bitorder="little").nonzero()[0]',
        "            allowed = allowed[allowed < len(processor.tokenizer)]",
        "            if not said:  # no answer begins with a space of its own",
        f"                allowed = np.setdiff1d(allowed, {blanks})",
        "            allowed = torch.tensor(allowed[allowed < scores.shape[1]], device=scores.device)",
        "            held[row, allowed] = scores[row, allowed]",
        "        return held",
        "",
        "",
    ]


class GrammarProcessor(LogitsProcessor):
    """Leaves only the tokens that the grammar allows after what each row has said.

    It serves one call of ``generate``, with any number of rows and beams.

    Args:
        matcher: at the beginning of the grammar; it is not moved.
        stop_ids: tokens that end an answer.
        n_vocab: entries of the tokenizer; further scores are padding of the model's output.
        blank_ids: tokens that are a single space. No answer begins with one: a model that would rather say
            something else escapes into it, and does not find back.
    """

    def __init__(
        self, matcher: LLMatcher, stop_ids: Sequence[int], n_vocab: int, *, blank_ids: Sequence[int] = ()
    ) -> None:
        self._start = matcher
        self._stop_ids = tuple(stop_ids)
        self._blank_ids = list(blank_ids)
        self._n_bytes = (n_vocab + 31) // 32 * 4
        self._n_vocab = n_vocab
        self._n_prompt: int | None = None
        self._states: dict[tuple[int, ...], LLMatcher | None] = {}  # by what was said; None: it has ended

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores, with -inf for what may not come next: (B, V)."""
        if self._n_prompt is None:
            self._n_prompt = input_ids.shape[1]
        rows = [tuple(row) for row in input_ids[:, self._n_prompt :].tolist()]
        self._advance(set(rows))
        masks = {said: self._mask(state, not said) for said, state in self._states.items()}
        allowed = torch.from_numpy(np.stack([masks[said] for said in rows]))  # (B, n_vocab) bool
        n_scores = scores.shape[1]
        if n_scores > self._n_vocab:
            allowed = torch.nn.functional.pad(allowed, (0, n_scores - self._n_vocab))
        held = scores.masked_fill(~allowed[:, :n_scores].to(scores.device), -torch.inf)
        self._check_choice(scores, held)
        return held

    def _advance(self, heard: set[tuple[int, ...]]) -> None:
        """Move to the states after ``heard``: each is one token beyond a state of the step before."""
        if not self._states:
            self._states = {said: self._start.deep_copy() for said in heard}  # nothing is said yet
            return
        n_children = Counter(said[:-1] for said in heard)
        after: dict[tuple[int, ...], LLMatcher | None] = {}
        for said in heard:
            state = self._states[said[:-1]]
            token_id = said[-1]
            if state is None or token_id in self._stop_ids or not state.validate_tokens([token_id]):
                after[said] = None  # an ended row gets padding; a beam search carries dead rows along
                continue
            if n_children[said[:-1]] > 1:
                state = state.deep_copy()
            state.consume_token(token_id)
            after[said] = state
        self._states = after

    def _mask(self, state: LLMatcher | None, is_start: bool) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which tokens may come next: (n_vocab,) bool."""
        if state is None:
            mask = np.zeros(self._n_vocab, dtype=bool)
            mask[[token for token in self._stop_ids if token < self._n_vocab]] = True
            return mask
        bits = np.frombuffer(state.compute_bitmask().ljust(self._n_bytes, b"\0"), dtype=np.uint8)
        if state.is_error():
            raise GenerationError(
                "the answer's form became too complex to follow",
                have=_reason(state.get_error()),
                hint="a simpler type: fewer alternatives, shorter limits on lengths",
            )
        mask = np.unpackbits(bits, count=self._n_vocab, bitorder="little").view(bool)
        if is_start:
            without = mask.copy()
            without[self._blank_ids] = False
            mask = without if without.any() else mask
        return mask

    @staticmethod
    def _check_choice(before: torch.Tensor, held: torch.Tensor) -> None:
        """Raise where the grammar leaves nothing to a row that had something to say before."""
        is_silent = torch.isneginf(held).all(dim=1) & ~torch.isneginf(before).all(dim=1)  # (B,)
        if bool(is_silent.any()):
            raise OptionError(
                "nothing is left to say: other settings forbid what the type allows",
                have="bad_words, or tokens that belong to pictures",
                hint="bad_words=() together with a type",
            )


def _compile(loaded: Loaded, grammar: str) -> LLMatcher:
    """A matcher at the beginning of ``grammar``, for this model's tokenizer."""
    import llguidance

    tokenizer = _tokenizer(loaded).tokenizer
    matcher = llguidance.LLMatcher(tokenizer, _in_their_words(grammar), log_level=0)
    error = matcher.get_error()
    if not error and (not any(matcher.compute_bitmask()) or matcher.is_error()):
        error = "no text fits it"
    if error:
        raise OptionError(
            "an answer cannot be held to this form",
            have=_reason(error),
            hint="a form that some text fits, without look-around, back-references, not, if",
            grammar=grammar,
        )
    return matcher


def _in_their_words(grammar: str) -> str:
    """Our grammar as llguidance takes it, with one space allowed before the answer.

    Models whose templates end in "Assistant:" have learned to begin with one.
    """
    from llguidance import LLMatcher

    form = json.loads(grammar)
    if "regex" in form:
        return LLMatcher.grammar_from_regex(f" ?(?:{form['regex']})")
    schema = {**form["json_schema"], "x-guidance": {**_JSON_STYLE, "lenient": bool(form.get("lenient"))}}
    return LLMatcher.grammar_from_lark(f'start: " "? value\nvalue: %json {json.dumps(schema)}')


def _tokenizer(loaded: Loaded) -> _Tokens:
    """The model's tokenizer as llguidance reads it; made once, which takes 2 s for 128,000 entries."""
    tokenizer = loaded.tokenizer
    found = _tokenizers.get(tokenizer)
    if found is not None:
        return found
    stops = token_ids.stop_token_ids(loaded, Settings())
    try:
        from llguidance.hf import from_tokenizer

        if not stops:
            raise ValueError("it has no token that ends an answer")
        made = from_tokenizer(tokenizer, n_vocab=len(tokenizer), eos_token=stops)
        ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
        if made.decode_bytes(ids).decode().removeprefix(" ") != _PROBE:
            raise ValueError("its tokens do not add up to the text")
    except (ValueError, RuntimeError) as error:
        raise ModelKindError(
            f"{loaded.name} cannot be held to a type: its tokenizer cannot be read byte by byte",
            have=f"{type(tokenizer).__name__}; {_reason(str(error))}",
            hint="ask without --type, or with %%vlm --choices, which works with any tokenizer",
        ) from error
    blanks = [token for token in range(len(tokenizer)) if made.decode_bytes([token]) == b" "]
    _tokenizers[tokenizer] = _Tokens(made, tuple(blanks))
    return _tokenizers[tokenizer]


def _reason(error: str) -> str:
    """The words of a library's error that say what is wrong, without the parser's state and drawings."""
    text = error.partition("<state>")[0]
    lines = [line for line in text.splitlines() if line.strip(" ^") and not re.match(r"\s*\d+ \| ", line)]
    line = re.sub(
        r"^at \d+\(\d+\): |failed to compile JSON schema: |invalid regex .* \(in regex\): ",
        "",
        " ".join(lines),
    )
    return shorten(re.sub(r"regex parse error:.*error: |; \w+ in regex /.*", "", line), 150)
