"""`vlm_magic.teach`: show a model examples until it does as they do, and see what that changed.

    lesson = vlm_magic.teach(engine, [(picture, "heart"), …], prompt="What shape is it?")
    lesson.save("heart"); lesson.take_off()

Neighbours: `lesson` is what comes back, `conversations` reads the examples.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from vlm_magic.errors import OptionError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Engine, Settings
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.loaded import Loaded
from vlm_magic.outputs.results.lesson import LessonView
from vlm_magic.tasks.evaluate.judging import Match, matcher_of
from vlm_magic.tasks.map.prompt import digest_of_parts
from vlm_magic.tasks.training.adapters import Adapter, need_peft, new_pieces
from vlm_magic.tasks.training.batch import need_local
from vlm_magic.tasks.training.conversations import Dialogue, conversations_of, split
from vlm_magic.tasks.training.kept import KeptLesson
from vlm_magic.tasks.training.lesson import Lesson
from vlm_magic.tasks.training.loop import Recipe

__all__ = ["lesson", "teach"]

_ASIDE = 0.2  # of the rehearsal, where the examples to put aside are given
_MOST_ASIDE = 60  # conversations that are asked before and after
_SMALL_PARAMETERS = 50_000_000  # a model below learns with larger steps
_RATES = {"lora": (5e-3, 2e-4), "all": (1e-3, 1e-5)}  # of a small model, of others
_WORD = re.compile(r"[^\W\d_]+")

_LESSONS: WeakKeyDictionary[Engine, Lesson] = WeakKeyDictionary()


def lesson(engine: Engine) -> Lesson | None:
    """The newest lesson of an engine, on or off; None where it was taught nothing."""
    return _LESSONS.get(engine)


def teach(
    engine: Engine,
    examples: object,
    *,
    steps: int = 120,
    method: str = "lora",
    rehearse: object = None,
    held_out: object = 0.2,
    prompt: str | None = None,
    new_words: Iterable[str] | None = None,
    batch_size: int = 8,
    learning_rate: float | None = None,
    rank: int = 8,
    seed: int = 0,
    match: Match = "normalised",
    keep: str | Path | None = None,
    progress: bool = True,
    options: PictureOptions | None = None,
    **settings: Any,
) -> Lesson:
    """Show a model examples until it answers as they do.

    It learns in its own line, so that no answer is given in the middle of a step. An interrupt ends it after
    a step: what was learned stays, and the same call goes on from there. The same call after the end teaches
    anew. A model has one lesson at a time: a new one takes the one before off.

    Args:
        engine: a model that is loaded here.
        examples: what ``--examples`` takes, or whole conversations; see `vlm_magic.training_batch`.
        steps: of the optimiser, each on one batch.
        method: "lora" learns thin matrices beside the language model's layers (peft), which come off again;
            "all" learns every weight, and forgets more.
        rehearse: examples of what it can do already, for half of each batch, against forgetting; for the
            starter `vlm_magic.starter_questions` draws them.
        held_out: the share of the examples (and of the rehearsal) that is put aside and asked before and
            after, 60 at most; or further examples for that.
        prompt: what is asked about each picture where an example does not say.
        new_words: words whose pieces' embeddings are learned, too, with "lora"; if not given, the words of
            the answers that the tokenizer writes in several pieces.
        batch_size: conversations of a step.
        learning_rate: the highest; for models below 50 M parameters 0.005 (LoRA) or 0.001, else 0.0002 or
            0.00001.
        rank: of LoRA's matrices.
        seed: of the order, the draw and the new weights: the same call learns the same.
        match: how answers that were put aside are judged, see `vlm_magic.evaluate`.
        keep: a folder that gets the adapter and all that is needed to go on in another kernel.
        progress: show the loss as it falls.
        options: limits of pictures and downloads.
        **settings: of the prompts: ``system``, ``continuation``, ``special_tokens``.

    Returns:
        The `Lesson`: ``losses``, ``before`` and ``after``, ``save``, ``take_off``, ``put_on``.

    Raises:
        OptionError: a model that is elsewhere or cannot be taught so; a method or number that does not fit;
            peft is not installed.
        PromptError: no examples.
        LessonStopped: interrupted (a KeyboardInterrupt).
        OutOfMemoryError: a batch did not fit; the model is as it was.
    """
    loaded = _teachable(engine, method, steps, batch_size)
    teachable = cast("LocalEngine", engine)  # a model that is here has one of these

    def read(given: object) -> list[Dialogue]:
        return conversations_of(given, prompt=prompt, options=options)

    new, old = read(examples), [] if rehearse is None else read(rehearse)
    share = _share_aside(held_out)
    rehearsal, old_aside = split(old, share if share is not None else _ASIDE, seed)
    learned, new_aside = (new, read(held_out)) if share is None else split(new, share, seed)
    rate = learning_rate or _RATES[method][loaded.n_parameters >= _SMALL_PARAMETERS]
    recipe = Recipe(steps, batch_size, rate, seed)
    how = Settings().updated(settings)
    pieces = new_pieces(loaded, list(new_words) if new_words is not None else _new_words(new, old))
    key = _key_of(loaded, method, recipe, rank, pieces, how, learned, rehearsal)
    found = _LESSONS.get(engine)
    if found is None or found.key != key or found.is_finished or not found.is_on:
        if found is not None:
            found.take_off()
        _check_bare(loaded)
        found = Lesson(
            teachable,
            key=key,
            method=method,
            recipe=recipe,
            adapter=Adapter(loaded, rank, pieces) if method == "lora" else None,
            examples=learned,
            rehearsal=rehearsal,
            aside={"new": new_aside[:_MOST_ASIDE], "old": old_aside[:_MOST_ASIDE]},
            judge=matcher_of(match),
            settings=how,
            kept=None if keep is None else KeptLesson(keep),
        )
        _LESSONS[engine] = found
    found.run(LessonView(steps, is_shown=progress))
    return found


def _teachable(engine: Engine, method: str, steps: int, batch_size: int) -> Loaded:
    """The model, once it is known that it can be taught in this way."""
    loaded = need_local(engine)
    if method not in _RATES:
        raise OptionError(f"no method {method!r}", have="lora, all", hint='method="lora"')
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} is {value!r}", have="a whole number, at least 1", hint=f"{name}=8")
    if loaded.is_encoder_decoder:
        raise OptionError(
            f"{loaded.name} cannot be taught here",
            have="an encoder reads its prompts, and the lesson is about models that go on with theirs",
            hint="a chat model, such as HuggingFaceTB/SmolVLM-500M-Instruct",
        )
    if method == "lora":
        need_peft()
        if loaded.quantization.startswith("bnb-4bit") and loaded.device == "cpu":
            raise OptionError(  # bitsandbytes has no backward pass there, and its gradients would be wrong
                "layers in 4 bits give no gradients on a CPU",
                have=f"{loaded.name} in {loaded.quantization} on {loaded.device}",
                hint="--quantize 8bit, or --device cuda",
            )
    elif loaded.quantization or loaded.dtype != "float32":
        raise OptionError(
            'method="all" changes every weight by small steps, which need float32',
            have=f"weights in {loaded.quantization or loaded.dtype}",
            hint='method="lora", or load with --dtype float32 and without --quantize',
        )
    return loaded


def _share_aside(held_out: object) -> float | None:
    """The share to put aside; None where they are examples themselves."""
    if not isinstance(held_out, (int, float)):
        return None
    if not 0 <= held_out < 1:
        raise OptionError(
            f"held_out is {held_out}", have="a share from 0 to below 1, or examples", hint="held_out=0.2"
        )
    return float(held_out)


def _check_bare(loaded: Loaded) -> None:
    if getattr(loaded.model, "peft_config", None):
        raise OptionError(
            f"{loaded.name} was loaded with an adapter, and a lesson has one of its own",
            have=loaded.options.adapter or ", ".join(map(str, loaded.model.peft_config)),
            hint="load it without --adapter",
        )


def _new_words(new: Sequence[Dialogue], old: Sequence[Dialogue]) -> list[str]:
    """The words of the answers to learn that no rehearsed answer has."""
    known = {word for dialogue in old for word in _words_of(dialogue)}
    return list(dict.fromkeys(word for dialogue in new for word in _words_of(dialogue) if word not in known))


def _words_of(dialogue: Dialogue) -> list[str]:
    return [word for turn in dialogue if turn.role == "assistant" for word in _WORD.findall(turn.text)]


def _key_of(
    loaded: Loaded,
    method: str,
    recipe: Recipe,
    rank: int,
    pieces: Sequence[int],
    settings: Settings,
    *dialogues: Sequence[Dialogue],
) -> str:
    """What makes two calls the same lesson."""
    shown = [
        [f"{turn.role}:{digest_of_parts(turn.parts)}" for turn in dialogue]
        for held in dialogues
        for dialogue in held
    ]
    told = [
        loaded.name,
        repr(loaded.options),
        method,
        repr(recipe),
        rank,
        list(pieces),
        repr(settings),
        shown,
    ]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()
