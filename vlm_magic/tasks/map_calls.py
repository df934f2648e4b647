"""`vlm_magic.map_pictures`: a map from beginning to end in one call, with a bar, as a table.

Neighbours: `mapping` is the run; `choices`, `typed` and `examples` say what answers are held to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import OptionError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Engine, Reply, Settings, Turn
from vlm_magic.tasks.map_table import MappedRow, need_pandas
from vlm_magic.tasks.mapping import PictureMap

if TYPE_CHECKING:
    import pandas as pd

    from vlm_magic.tasks.choices import ChoiceSet

__all__ = ["map_pictures", "value_of_choice"]


def map_pictures(
    engine: Engine,
    prompt: str,
    pictures: object,
    *,
    table: object = None,
    names: Mapping[str, object] | None = None,
    examples: object = None,
    choices: object = None,
    type: object = None,  # noqa: A002 - what people call it
    batch_size: int | None = None,
    journal: str | Path | None = None,
    resume: bool = True,
    raw: bool = False,
    progress: bool = True,
    on_row: Callable[[MappedRow], None] | None = None,
    options: PictureOptions | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Ask one prompt about many pictures, each outside any conversation.

    Args:
        engine: who answers, from `vlm_magic.load`.
        prompt: the words; ``{picture}`` is the place of the picture (first if absent), ``{row.title}`` a
            column of ``table``.
        pictures: a column, list, dict (name → picture), array batch, generator, glob, folder.
        table: a frame, or one mapping or object for each picture.
        names: further variables that the prompt may use.
        examples: few-shot examples before every question, see `vlm_magic.tasks.examples`.
        choices: the replies to choose among, see `vlm_magic.tasks.choices.ChoiceSet.of`.
        type: what every answer shall be, see `vlm_magic.tasks.schemas.schema_of`.
        batch_size: pictures at a time; about what the machine takes if not given.
        journal: a file of JSON lines that survives the process; the next call with the same prompt,
            model and settings asks only what is missing in it.
        resume: False asks again what this process has answered before.
        raw: take the prompt as it stands.
        progress: show a bar.
        on_row: called with each finished row, pictures included.
        options: limits of pictures and downloads.
        **settings: as for a question (`vlm_magic.messages.Settings`): ``max_tokens``, ``system``,
            ….

    Returns:
        A pandas DataFrame in the order of the pictures, see `PictureMap.to_frame`. A picture that cannot
        be asked is a row with an ``error``.

    Raises:
        OptionError: pandas is not installed; a journal that cannot be written, is in use or belongs to
            another prompt, model or settings.
        PromptError: the generator of the pictures raised; the rows before it are kept for the next call.
        VLMError: anything else that would be wrong with every row.
    """
    need_pandas()
    shown: Sequence[Turn] = ()
    if examples is not None:
        from vlm_magic.tasks.examples import example_turns

        shown = example_turns(examples, prompt=prompt, options=options)
    read = _held(engine, choices, type, settings)
    run = PictureMap(
        engine,
        prompt,
        pictures,
        table=table,
        names=names,
        examples=shown,
        read=read,
        batch_size=batch_size,
        journal=journal,
        resume=resume,
        raw=raw,
        options=options,
        settings=Settings().updated(settings),
    )
    from tqdm.auto import tqdm

    with tqdm(total=run.n_total, unit="picture", disable=not progress, leave=False) as bar:
        for row in run:
            bar.update()
            if on_row is not None:
                on_row(row)
    return run.to_frame()


def _held(
    engine: Engine, choices: object, type_: object, settings: dict[str, Any]
) -> Callable[[Reply], object] | None:
    """Put choices or a type into the settings; what reads the answers."""
    if choices is not None and type_ is not None:
        raise OptionError("choices and a type do not go together", hint="one of them")
    if choices is not None:
        from vlm_magic.tasks.choices import ChoiceSet

        asked = ChoiceSet.of(choices)
        settings["choices"] = asked.texts
        return value_of_choice(asked)
    if type_ is not None:
        from vlm_magic.tasks.typed import constraint_for

        constraint = constraint_for(engine, type_)
        settings["grammar"] = constraint.grammar
        return constraint.read
    return None


def value_of_choice(asked: ChoiceSet) -> Callable[[Reply], object]:
    """Reads a reply as what its best choice stands for: a label, a number, a member of an Enum."""
    values = dict(zip(asked.texts, asked.values, strict=True))
    return lambda reply: values[reply.text]
