"""The notebooks: saved with outputs that a fresh run gives again, right, and readable without a kernel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from programs import run_module

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# A question of the notebook and what its answer says: the truth of the drawn scenes.
TRUTH = {
    "00_quickstart.ipynb": [
        ("What is in", r"(?=.*red circle)(?=.*green triangle)(?=.*blue square)"),
        ("What colour is the square?", r"(It is |The square is )?blue\b"),
        ("Is there a star?", r"no\b|There is no star"),
        ("Which picture has more shapes", r"(the )?first\b"),
    ],
    "01_tasks.ipynb": [
        ("What colour is it?", r"green\b"),
        ("Is there a square?", r"no\b"),
        ("[after 2 examples", r"An image of a green triangle\. Fun fact: I like it\."),
    ],
    "02_drawings.ipynb": [
        ("[picture: ball", "red"),
        ("Where is the star", "in the top left"),
        ("Is there a purple circle", "yes"),
        ("What shape is the red thing", "triangle"),
        ("Is there a red cross", "yes"),
        ("[picture: squares", "the green square"),
        ("What shape is the blue thing", "diamond"),
        ("Which shape is furthest", "the green circle"),
        ("Which bar is the tallest", "the blue bar"),
        ("Where is the triangle", "There is no triangle."),
    ],
}

# What cells without a transcript show: results of choices and types, the score of a map, a comparison.
RESULTS = {
    "01_tasks.ipynb": [
        r"^'triangle'$",
        r"^\('green', False\)$",
        r"^100% right$",
        r"examples 2 .*\n.* image ",
    ],
}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def transcripts(path: Path, kind: str = "text/plain") -> list[str]:
    """The shown answers, one text for each output that is a transcript."""
    bundles = [output.get("data", {}) for cell in code_cells(path) for output in cell["outputs"]]
    return [
        "".join(bundle[kind])
        for bundle in bundles
        if 'class="vlm vlm-transcript' in "".join(bundle.get("text/html", ""))
    ]


def answers(path: Path) -> list[tuple[str, str]]:
    """Each question with its answer, as the transcripts show them."""
    pairs = []
    for text in transcripts(path):
        pairs += re.findall(r"^You: (.*?)\n[\w. -]+: (.*?)\n\[\d+ tokens?", text, re.DOTALL | re.MULTILINE)
    return pairs


def run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``python -m …`` as a person would; kernels find the package of this checkout."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTEST_ADDOPTS": ""}
    done = run_module(*command, folder=folder, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_there_is_a_quick_start() -> None:
    """Its second cell says how to load a real checkpoint instead of the starter."""
    notebook = read(ROOT / "notebooks" / "00_quickstart.ipynb")
    assert "%vlm_load HuggingFaceTB/SmolVLM" in "".join(notebook["cells"][1]["source"])


@every_notebook
def test_it_is_saved_as_it_was_run_from_top_to_bottom(path: Path) -> None:
    """With outputs, without errors, warnings, widgets, or traces of somebody's machine."""
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [(output["output_type"], output.get("name")) for cell in cells for output in cell["outputs"]]
    assert ("error", None) not in kinds
    assert ("stream", "stderr") not in kinds
    assert read(path)["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in read(path)["metadata"]
    assert not any("execution" in cell["metadata"] for cell in cells)  # the times of somebody's run
    assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text(encoding="utf-8"))


@every_notebook
def test_what_the_model_said_in_it_is_right(path: Path) -> None:
    said = answers(path)
    for question, truth in TRUTH[path.name]:
        found = [answer for asked, answer in said if asked.startswith(question)]
        assert found, f"{question!r} is not in the notebook"
        assert all(re.match(truth, answer, re.IGNORECASE) for answer in found), (question, found)


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_what_its_jobs_gave_is_right(name: str) -> None:
    outputs = [output for cell in code_cells(ROOT / "notebooks" / name) for output in cell["outputs"]]
    texts = ["".join(output.get("data", {}).get("text/plain", output.get("text", ""))) for output in outputs]
    for result in RESULTS[name]:
        assert any(re.search(result, text, re.MULTILINE) for text in texts), result


@every_notebook
def test_a_fresh_run_gives_the_saved_outputs(path: Path) -> None:
    """nbval, strictly; seconds, megabytes and the bytes of thumbnails aside."""
    run(
        *("pytest", "--nbval", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg", "-p", "no:cacheprovider"),
        *("-q", "-W", "default", "--rootdir", str(path.parent), "-c", os.devnull, str(path)),
    )


@every_notebook
def test_jupyter_execute_gives_the_same_answers(path: Path, tmp_path: Path) -> None:
    """And nbconvert shows them on a page with their thumbnails, where no kernel and no widget runs."""
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    run("jupyter", "execute", "--inplace", copy.name, folder=tmp_path)
    assert answers(copy) == answers(path)
    run("jupyter", "nbconvert", "--to", "html", copy.name, folder=tmp_path)
    page = copy.with_suffix(".html").read_text(encoding="utf-8")
    assert page.count('class="vlm vlm-transcript') == len(transcripts(path))
    assert len(re.findall(r'<img [^>]*src="data:image/\w+;base64,', page)) >= len(answers(path)) // 2
    for _, answer in answers(path):
        assert answer.splitlines()[0] in page


def test_papermill_fills_in_a_parameter_and_the_answer_follows(tmp_path: Path) -> None:
    """A notebook as a report: the same cells over another picture, run by a program from a plain terminal."""
    from nbformat import v4, write

    draw = (
        "from PIL import Image, ImageDraw\n"
        "picture = Image.new('RGB', (200, 200), 'white')\n"
        "ImageDraw.Draw(picture).ellipse((60, 60, 140, 140), fill=colour)"
    )
    cells = [v4.new_code_cell(source) for source in ("colour = 'red'", draw, "%load_ext vlm_magic")]
    cells[0].metadata.tags = ["parameters"]
    cells.append(v4.new_code_cell("%%vlm\nWhat colour is the circle in {picture}?"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "report.ipynb")
    for colour in ("green", "black"):
        done = tmp_path / f"{colour}.ipynb"
        run("papermill", "report.ipynb", done.name, "-p", "colour", colour, folder=tmp_path)
        assert [answer for _, answer in answers(done)] == [colour]
