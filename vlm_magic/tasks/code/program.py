"""Show me the code: the plain transformers program that gives the same tokens as a turn of a conversation.

A learner can run it without this package. What it says is tried while it is written: the prompt is made by
transformers' own calls, and only if that gives the model the very tensors that it was given does the
program say it so; else it takes the rendered text, and at last the token ids themselves.

Neighbours: `parts` writes literals and pictures, `ways` the prompt's inputs, `scored_choices` what
compares choices; `vlm_magic.models` is what the program leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.choice_scores import content_free
from vlm_magic.errors import ConversationError, OptionError, VLMError
from vlm_magic.messages import Engine, Exchange, Picture, Settings, Text, Turn, is_elsewhere, is_here
from vlm_magic.models.decoding.generation_config import generation_config
from vlm_magic.models.decoding.scoring import is_plain, without_trailing_space
from vlm_magic.models.prompts.idefics import process_lists
from vlm_magic.models.prompts.prepare import lay_out, prepare
from vlm_magic.models.prompts.token_ids import generating_parts
from vlm_magic.models.prompts.turns import merged
from vlm_magic.session import Session
from vlm_magic.tasks.code.parts import (
    PictureFiles,
    block,
    literal,
    messages_lines,
    quantization_lines,
    short_ids,
)
from vlm_magic.tasks.code.remote_program import remote_program
from vlm_magic.tasks.code.scored_choices import choices_lines
from vlm_magic.tasks.code.ways import Way, as_blocks, as_string, gives_the_same

if TYPE_CHECKING:
    from vlm_magic.models.loaded import Loaded

__all__ = ["program", "program_of"]


def program_of(
    session: Session, exchange: Exchange | None = None, *, engine: Engine, folder: Path | None = None
) -> str:
    """The program of one turn with all that the model was shown before it.

    Args:
        session: whose conversation holds the turn.
        exchange: the turn; the last one if not given.
        engine: the local engine that answered.
        folder: where its pictures are put, as PNG; ``vlm_code_pictures`` if not given.

    Raises:
        ConversationError: there is no turn. OptionError: the turn generated nothing, or not here.
    """
    turns = session.conversation.exchanges
    chosen = exchange or (turns[-1] if turns else None)
    if chosen is None:
        raise ConversationError(
            f"conversation {session.conversation.name!r} has no turns yet", hint="ask something first"
        )
    shown = session.conversation.turns_for(replace(chosen, replaces=chosen.id))
    remarks = []
    if chosen.is_stale:
        remarks.append("An earlier turn has changed since this one was answered: the answer may differ.")
    reply = chosen.reply
    if reply is not None and reply.is_partial:
        remarks.append("The answer in the notebook was stopped; this program goes on to its end.")
    return program(engine, shown, chosen.settings, folder=folder, remarks=remarks)


def program(
    engine: Engine,
    turns: Sequence[Turn],
    settings: Settings,
    *,
    folder: Path | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """The plain transformers program that answers ``turns`` as the engine does.

    Args:
        engine: a local engine; its processor is asked what it makes of the prompt.
        turns: what the model is shown, the question last; pictures decoded.
        settings: how it was asked.
        folder: where its pictures are put.
        remarks: for the head of the program.

    Raises:
        OptionError: the engine is not a local one.
    """
    if is_elsewhere(engine):
        return remote_program(engine, turns, settings, folder=folder, remarks=remarks)
    if not is_here(engine):
        raise OptionError(
            f"{engine.name} does not run here", have="%vlm_code writes programs for local models"
        )
    how = engine.in_effect(settings)
    pictures = PictureFiles(folder or Path("vlm_code_pictures"))
    writer = _Writer(engine.loaded, list(turns), how, pictures)
    return writer.write(remarks)


@dataclass
class _Writer:
    """Writes one program, section by section."""

    loaded: Loaded
    turns: list[Turn]
    settings: Settings
    pictures: PictureFiles
    imports: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)

    def write(self, remarks: Sequence[str]) -> str:
        """The whole program."""
        body = [*self._load(), *self._processor()]
        if self.settings.choices:
            body += self._compare()
        else:
            body += [*self._prompt(self.turns), *self._generate(), *self._decode()]
        head = ['"""The same answer with transformers alone, written by %vlm_code."""', ""]
        head += [f"# {remark}" for remark in remarks]
        imports = sorted({"import torch", *self.imports}, key=lambda line: (line.startswith("from"), line))
        names = sorted({"AutoModelForImageTextToText", "AutoProcessor", *self.classes})
        line = f"from transformers import {', '.join(names)}"
        taken = [line] if len(line) <= 110 else block("from transformers import (", names, ")")
        return "\n".join([*head, *imports, *taken, "", *body]) + "\n"

    # Model and processor

    @property
    def _location(self) -> str:
        """Where the checkpoint is: its hub id, or the folder that it was read from."""
        name, folder = self.loaded.name, str(self.loaded.model.name_or_path)
        is_hub_id = name.count("/") == 1 and not Path(name).exists() and not name.startswith((".", "~", "/"))
        return name if is_hub_id else str(Path(folder).resolve())

    def _load(self) -> list[str]:
        loaded, options = self.loaded, self.loaded.options
        arguments: dict[str, str] = {"dtype": f"torch.{loaded.dtype}"}
        attention = getattr(loaded.model.config, "_attn_implementation", None)
        if attention:
            arguments["attn_implementation"] = literal(attention)
        lines: list[str] = []
        if loaded.quantization:
            lines, self.classes = quantization_lines(loaded.model, self.classes, self.imports)
            arguments |= {"quantization_config": "quantization"} if lines else {}
        if options.device == "offload":
            arguments["device_map"] = '"auto"'
        elif loaded.device != "cpu" or loaded.quantization:
            arguments["device_map"] = literal({"": loaded.device})
        if options.revision:
            arguments["revision"] = literal(options.revision)
        if options.trust_remote_code:
            arguments["trust_remote_code"] = "True"
        what = (
            "the starter, from the folder that it was installed in"
            if loaded.name == "starter"
            else "a name on the hub, or a folder"
        )
        lines = [f"checkpoint = {literal(self._location)}  # {what}", *lines]
        inside = ["checkpoint", *(f"{name}={value}" for name, value in arguments.items())]
        lines += block("model = AutoModelForImageTextToText.from_pretrained(", inside, ").eval()")
        if options.adapter:
            lines.append(f"model.load_adapter({literal(options.adapter)})")
        if options.picture_tokens is not None and hasattr(loaded.model.config, "image_grid_pinpoints"):
            lines.append(
                f"model.config.image_grid_pinpoints = {literal(loaded.model.config.image_grid_pinpoints)}"
            )
        return lines

    def _processor(self) -> list[str]:
        """The processor, with the settings in which ours differs from the checkpoint's own."""
        more = ", revision=" + literal(self.loaded.options.revision) if self.loaded.options.revision else ""
        more += ", trust_remote_code=True" if self.loaded.options.trust_remote_code else ""
        lines = [f"processor = AutoProcessor.from_pretrained(checkpoint{more})"]
        own = self._fresh_processor()
        if own is None:
            lines.insert(
                0, "# Its processor needs a package that is not here: pip install torchvision num2words"
            )
            return lines
        before, after = own.image_processor.to_dict(), self.loaded.processor.image_processor.to_dict()
        for name, value in after.items():
            if name in before and before[name] != value and not name.startswith("_"):
                lines.append(f"processor.image_processor.{name} = {literal(value)}")
                setattr(own.image_processor, name, value)
        kwargs = getattr(self.loaded.processor, "images_kwargs", None)
        if kwargs != getattr(own, "images_kwargs", None) and isinstance(kwargs, dict):
            lines.append(f"processor.images_kwargs = {literal(kwargs)}")
            own.images_kwargs = kwargs
        self._tried = own
        return lines

    def _fresh_processor(self) -> Any:
        """The processor as the program will load it; None where this machine cannot."""
        from transformers import AutoProcessor

        self._tried = self.loaded.processor
        try:
            return AutoProcessor.from_pretrained(
                self.loaded.model.name_or_path,
                local_files_only=True,
                trust_remote_code=self.loaded.options.trust_remote_code,
            )
        except (ImportError, OSError, ValueError):
            return None

    # The prompt

    def _prompt(self, turns: Sequence[Turn]) -> list[str]:
        """The lines that give ``inputs``: the first way that gives the model what it was given."""
        exact = prepare(self.loaded, turns, self.settings).inputs
        pictures = [picture for turn in turns for picture in turn.pictures]
        names, images = self.pictures.add(pictures), [picture.rgb for picture in pictures]
        lines = ["", *self.pictures.lines(self.imports)]
        try:
            text = lay_out(self.loaded, turns, self.settings, str).text
        except VLMError:  # words that look like control tokens spoil the layout when they are not hidden
            text = None
        for way in (self._as_messages, self._as_text, self._as_lists):
            found = way(turns, text, names, images)
            if found is not None and gives_the_same(found.make, exact):
                return [*lines, *found.lines, *self._to_model()]
        return [*lines, *self._as_token_ids(names, images, exact), *self._to_model()]

    def _as_messages(
        self, shown: Sequence[Turn], text: Any, names: list[str], images: list[Any]
    ) -> Way | None:
        """Through the chat template: blocks of text and pictures, or plain strings."""
        if self.settings.continuation or self.loaded.chat_template is None or not isinstance(text, str):
            return None
        system = [Turn("system", (Text(self.settings.system),))] if self.settings.system else []
        for content in (as_blocks, as_string):
            turns = merged([*system, *merged(shown)])
            placeholder = self.loaded.family.placeholder(self.loaded.processor)
            messages = [{"role": turn.role, "content": content(turn, placeholder)} for turn in turns]
            try:
                rendered = self._tried.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False
                )
            except Exception:  # a template may raise anything; the next form follows
                continue
            if rendered == text:
                lines = messages_lines(messages)
                lines += block(
                    "prompt = processor.apply_chat_template(",
                    ["messages", "add_generation_prompt=True", "tokenize=False"],
                    ")",
                )
                return self._called(lines, text, names, images)
        return None

    def _as_text(self, shown: Sequence[Turn], text: Any, names: list[str], images: list[Any]) -> Way | None:
        """The rendered prompt as it stands: base checkpoints, and templates that need help."""
        if not isinstance(text, str):
            return None
        return self._called([f"prompt = {literal(text)}"], text, names, images)

    def _called(self, lines: list[str], text: str, names: list[str], images: list[Any]) -> Way:
        options: dict[str, Any] = {"return_tensors": "pt"}
        more = ['return_tensors="pt"']
        bos = self.loaded.tokenizer.bos_token
        if bos and text.startswith(bos):
            options["add_special_tokens"] = False
            more.append("add_special_tokens=False")
        given = [f"images=[[{', '.join(names)}]]"] if names else []
        return Way(
            [*lines, *block("inputs = processor(", ["text=[prompt]", *given, *more], ")")],
            lambda: self._tried(text=[text], images=[images] if images else None, **options),
        )

    def _as_lists(self, shown: Sequence[Turn], items: Any, names: list[str], images: list[Any]) -> Way | None:
        """Texts and pictures in one list, as the first IDEFICS takes them."""
        if not isinstance(items, list):
            return None
        left = iter(names)
        written = [literal(item) if isinstance(item, str) else next(left) for item in items]
        shown_items = [item.rgb if isinstance(item, Picture) else item for item in items]
        return Way(
            [
                *block("prompt = [", written, "]"),
                'inputs = processor(text=[prompt], add_end_of_utterance_token=False, return_tensors="pt")',
            ],
            lambda: self._tried(text=[shown_items], add_end_of_utterance_token=False, return_tensors="pt"),
        )

    def _as_token_ids(self, names: list[str], images: list[Any], exact: dict[str, Any]) -> list[str]:
        """The prompt's tokens themselves, where no text gives them: it names the model's control tokens."""
        placeholder = self.loaded.family.placeholder(self.loaded.processor)
        text = placeholder * len(names)
        lines = [
            "# Words of the prompt look like the model's control tokens and were shown to it as plain",
            "# letters, which no text gives: the pictures come from the processor, the tokens stand here.",
        ]
        listed = self._as_lists((), [*images, " "], names, images) if self._takes_lists else None
        called = listed or self._called([f"prompt = {literal(text or ' ')}"], text, names, images)
        lines += called.lines
        n_tokens = exact["input_ids"].shape[1]
        for name, tensor in exact.items():
            if tensor.ndim == 2 and tensor.shape[1] == n_tokens and not tensor.is_floating_point():
                lines.append(f"inputs[{literal(name)}] = torch.tensor([{short_ids(tensor[0].tolist())}])")
        return lines

    @property
    def _takes_lists(self) -> bool:
        return bool(self.loaded.family.process is process_lists)

    def _to_model(self) -> list[str]:
        return [f"inputs = inputs.to(model.device, torch.{self.loaded.dtype})", ""]

    # The answer

    def _compare(self) -> list[str]:
        """Prompt and scores of a turn that compared choices; for a prior, a prompt of grey squares too."""
        loaded, how = self.loaded, self.settings
        turns = without_trailing_space(self.turns) if is_plain(loaded, how) else self.turns
        inputs = prepare(loaded, turns, how).inputs
        lines = self._prompt(turns)
        if how.normalize == "prior":
            blank = content_free(turns)
            lines += [
                "asked = inputs",
                "",
                "# The same prompt with a grey square for each picture.",
                *self._prompt(blank),
                "blank = inputs",
            ]
        return [*lines, *choices_lines(loaded, turns, how, inputs), "print(answer)"]

    def _generate(self) -> list[str]:
        loaded, how = self.loaded, self.settings
        self.classes.add("GenerationConfig")
        values = generation_config(loaded, how).to_diff_dict()
        values.pop("transformers_version", None)
        lines = ["# The whole configuration: what is left out here would come from the checkpoint's own."]
        lines += block(
            "model.generation_config = GenerationConfig(",
            [f"{name}={literal(value)}" for name, value in values.items()],
            ")",
        )
        if len(generating_parts(loaded.model)) > 1:
            lines.append("model.language_model.generation_config = model.generation_config")
        more = self._held(lines)
        if how.stop:
            more += f", stop_strings={literal(list(how.stop))}, tokenizer=processor.tokenizer"
        if how.seed is not None:
            lines.append(f"torch.manual_seed({how.seed})")
        elif how.is_sampling:
            lines.append(
                "# Tokens are drawn at random, and no seed was given: every run says something else."
            )
        if how.time_limit_s is not None:
            lines.append(f"# The notebook stops after {how.time_limit_s:g} seconds; this program does not.")
        lines += ["with torch.inference_mode():", f"    output = model.generate(**inputs{more})"]
        return lines

    def _held(self, lines: list[str]) -> str:
        """What holds the answer to a type, put before the call; the call's further argument."""
        if not self.settings.grammar:
            return ""
        from vlm_magic.models.decoding.grammar import plain_code

        self.imports |= {
            "import numpy as np",
            "from llguidance import LLMatcher",
            "from llguidance.hf import from_tokenizer",
        }
        self.classes |= {"LogitsProcessor", "LogitsProcessorList"}
        lines += plain_code(self.loaded, self.settings)
        return ", logits_processor=LogitsProcessorList([HeldToAType()])"

    def _decode(self) -> list[str]:
        start = "1" if self.loaded.is_encoder_decoder else 'inputs["input_ids"].shape[1]'
        lines = ["", f"new_ids = output[0, {start}:].tolist()"]
        lines += block(
            "answer = processor.tokenizer.decode(",
            ["new_ids", "skip_special_tokens=True", "clean_up_tokenization_spaces=False"],
            ")",
        )
        for stop in self.settings.stop:
            lines.append(f"answer = answer.partition({literal(stop)})[0]")
        if not self.settings.continuation:
            lines.append("answer = answer.strip()")
        return [*lines, "print(answer)"]
