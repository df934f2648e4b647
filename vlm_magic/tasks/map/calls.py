"""`vlm_magic.map_pictures`: a map from beginning to end in one call, with a bar, as a table.

Neighbours: `mapping` is the run; `vlm_magic.tasks.forms` says what answers are held to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import OptionError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Engine, Settings, Turn
from vlm_magic.tasks.forms import AnswerForm
from vlm_magic.tasks.frames import need_pandas
from vlm_magic.tasks.map.mapping import PictureMap
from vlm_magic.tasks.map.table import MappedRow

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["map_pictures"]


def map_pictures(
    engine: Engine | str | None,
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
    into: str | Path | None = None,
    resume: bool = True,
    raw: bool = False,
    progress: bool = True,
    on_row: Callable[[MappedRow], None] | None = None,
    options: PictureOptions | None = None,
    on: object = None,
    n_workers: int | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Ask one prompt about many pictures, each outside any conversation.

    Args:
        engine: who answers, from `vlm_magic.load`; on a cluster also the name of a checkpoint that workers
            can see (None is the starter), so that nothing is loaded here.
        prompt: the words; ``{picture}`` is the place of the picture (first if absent), ``{row.title}`` a
            column of ``table``.
        pictures: a column, list, dict (name → picture), array batch, generator, glob, folder.
        table: a frame, or one mapping or object for each picture.
        names: further variables that the prompt may use.
        examples: few-shot examples before every question, see `vlm_magic.tasks.examples`.
        choices: the replies to choose among, see `vlm_magic.tasks.choices.choices.ChoiceSet.of`.
        type: what every answer shall be, see `vlm_magic.tasks.schemas.schema_of`.
        batch_size: pictures at a time; about what the machine takes if not given.
        journal: a file of JSON lines that survives the process; the next call with the same prompt,
            model and settings asks only what is missing in it.
        into: a folder that gets the rows as Parquet files, for a table that does not fit here; it goes on
            where it stopped. The result is then a table of its files.
        resume: False asks again what this process has answered before.
        raw: take the prompt as it stands.
        progress: show a bar.
        on_row: called with each finished row, pictures included.
        options: limits of pictures and downloads.
        on: a cluster that answers instead of this process: "dask" starts a local one and ends it, a
            scheduler's address ("tcp://host:8786") or a `dask.distributed.Client` is used as it is.
        n_workers: of a cluster that is started here.
        **settings: as for a question (`vlm_magic.messages.Settings`): ``max_tokens``, ``system``,
            ….

    Returns:
        A pandas DataFrame in the order of the pictures, see `PictureMap.to_frame`. A picture that cannot
        be asked is a row with an ``error``.

    Raises:
        OptionError: pandas is not installed; a journal that cannot be written, is in use or belongs to
            another prompt, model or settings.
        ClusterError: the cluster is gone, or its workers are not as they should be.
        PromptError: the generator of the pictures raised; the rows before it are kept for the next call.
        VLMError: anything else that would be wrong with every row.
    """
    need_pandas("a map")
    shown: Sequence[Turn] = ()
    if examples is not None:
        from vlm_magic.tasks.examples import example_turns

        shown = example_turns(examples, prompt=prompt, options=options)
    form = AnswerForm.of(choices, type)
    how = Settings().updated(form.settings_with(settings))
    with _answering(engine, on, n_workers) as answering:
        run = PictureMap(
            answering,
            prompt,
            pictures,
            table=table,
            names=names,
            examples=shown,
            read=form.reader(answering),
            batch_size=batch_size,
            journal=journal,
            into=into,
            resume=resume,
            raw=raw,
            options=options,
            settings=how,
        )
        _run(run, on_row, progress=progress)
    return run.to_frame()


@contextmanager
def _answering(engine: Engine | str | None, on: object, n_workers: int | None) -> Iterator[Engine]:
    """Who answers: the engine itself, or the same one on the workers of a cluster."""
    if on is not None:
        from vlm_magic.tasks.map.cluster.choose import cluster_engine

        with cluster_engine(on, engine, n_workers) as there:
            yield there
    elif n_workers is not None:
        raise OptionError("n_workers needs a cluster", have="on=None", hint='on="dask"')
    elif engine is None or isinstance(engine, str):
        raise OptionError(
            f"{engine!r} is not an engine",
            have="a name is enough on a cluster, whose workers load it",
            hint="vlm_magic.load()",
        )
    else:
        yield engine


def _run(run: PictureMap, on_row: Callable[[MappedRow], None] | None, *, progress: bool) -> None:
    """Go through the rows with a bar."""
    from tqdm.auto import tqdm

    with tqdm(total=run.n_total, unit="picture", disable=not progress, leave=False) as bar:
        for row in run:
            bar.update()
            if on_row is not None:
                on_row(row)
