"""How well conversations are answered: the last question of each, after the turns before it.

Knows a local engine and finished conversations. Neighbours: `lesson` measures before and after;
`vlm_magic.tasks.evaluate` judges, and evaluates tables of questions on any engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Picture, Settings
from vlm_magic.models.engine import LocalEngine
from vlm_magic.tasks.evaluate.evaluated import Evaluated, EvaluatedRow
from vlm_magic.tasks.evaluate.judging import Matcher
from vlm_magic.tasks.training.conversations import Dialogue
from vlm_magic.wording import shorten

__all__ = ["measure"]

_ROWS = 16  # at a time, or what the machine takes
_ROOM = 2  # an answer may have this many times the tokens of the longest true one


def measure(
    engine: LocalEngine, dialogues: Sequence[Dialogue], judge: Matcher, settings: Settings, name: str
) -> Evaluated:
    """Answer the last question of each conversation and judge the answers.

    Args:
        engine: who answers.
        dialogues: finished conversations.
        judge: whether an answer is right.
        settings: of the prompts; ``max_tokens`` is held to what true answers need.
        name: what to call the evaluation.
    """
    truths = [dialogue[-1].text for dialogue in dialogues]
    tokenizer = engine.loaded.tokenizer if engine.loaded is not None else engine.processor.tokenizer
    longest = max(len(tokenizer(truth, add_special_tokens=False)["input_ids"]) for truth in truths)
    how = settings.updated({"max_tokens": _ROOM * longest + 4})
    n_at_once = min(_ROWS, engine.rows_at_once(dialogues[0][:-1], how))
    said: list[str] = []
    for start in range(0, len(dialogues), n_at_once):
        batch = [dialogue[:-1] for dialogue in dialogues[start : start + n_at_once]]
        said += [str(reply.text).strip() for reply in engine.generate_batch(batch, how)]
    return Evaluated(
        [
            _row(dialogue, answer, truth, bool(judge(answer, truth)))
            for dialogue, answer, truth in zip(dialogues, said, truths, strict=True)
        ],
        name,
    )


def _row(dialogue: Dialogue, answer: str, truth: str, is_right: bool) -> EvaluatedRow:
    pictures: list[Picture] = [picture for turn in dialogue for picture in turn.pictures]
    return EvaluatedRow(
        name=pictures[0].name if pictures else "",
        question=shorten(dialogue[-2].text.strip(), 160),
        answer=answer,
        truth=truth,
        is_right=is_right,
        thumbnail=thumbnail_data_uri(pictures[-1], 96) if pictures and not is_right else "",
    )
