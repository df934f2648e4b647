"""What each kind of server can do, as measured: the README's table, and what the tests of real servers find.

`tests/test_remote_servers.py` measures the rows of transformers serve, llama.cpp and vLLM, each where that
server is at hand; the last row is what a scripted server of its kind is asked in `tests/test_remote.py`.
"""

from __future__ import annotations

from vlm_magic.remote.engine import RemoteEngine

__all__ = ["LOCAL", "TABLE", "abilities_of", "as_markdown"]

ROWS = {
    "text, several turns, streaming, Stop": "answers",
    "several pictures in their order": "several_pictures",
    "`--choices` with probabilities": "scores",
    "`--type`": "forms",
    "log-probabilities": "log_probabilities",
    "`--dry-run` counts": "counts",
    "Continue, `session.continue_answer`": "continues",
    "`--map`, `--compare`, `--examples`": "answers",
}

LOCAL = dict.fromkeys(
    ("several_pictures", "scores", "forms", "log_probabilities", "counts", "continues"), True
)

TABLE: dict[str, dict[str, bool]] = {
    "vLLM 0.32": LOCAL,
    "llama.cpp 0.7": LOCAL,
    "transformers serve 5.23": {
        "several_pictures": True,
        "scores": False,
        "forms": False,
        "log_probabilities": False,
        "counts": True,
        "continues": False,
    },
    "another OpenAI-compatible one": {
        "several_pictures": True,
        "scores": False,
        "forms": True,
        "log_probabilities": True,
        "counts": False,
        "continues": False,
    },
}


def abilities_of(engine: RemoteEngine) -> dict[str, bool]:
    """What was found out about an engine, by the names of the table."""
    return {name: bool(engine._found.abilities.get(name)) for name in LOCAL}


def as_markdown() -> str:
    """The table of the README."""
    columns = {"a model here": LOCAL, **TABLE}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for words, name in ROWS.items():
        cells = ("yes" if name == "answers" or able[name] else "–" for able in columns.values())
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
