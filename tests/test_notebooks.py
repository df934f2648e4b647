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
        ("Which shape is this", r"(a purple )?circle|A purple circle\."),  # wrong, and the text says so
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
    "course_0_start_here.ipynb": [("What is in", r"A red circle\.")],
    "course_1_pixels_to_tokens.ipynb": [
        ("What is in [picture: scene", r"(?=.*red circle)(?=.*green triangle)(?=.*blue square)"),
        ("What is in [picture: part", r"A red circle\."),
        ("What shape is the red thing in [picture: wide", r"(?!circle)"),  # what it is shown is no circle
    ],
    "course_2_prompt_is_a_script.ipynb": [
        # Asked, and asked again by a text that speaks for both sides on purpose.
        ("[picture: photo, 240×240 px, 39 tokens] What colour is it?", r"green$|red<end_of_utterance>\n"),
        ("[after 2 examples", r"An image of a green triangle\. Fun fact: I like it\."),
    ],
    "course_3_one_word_at_a_time.ipynb": [
        ("What colour is the circle in [picture: scene", r"(?!red)"),  # which was forbidden
    ],
    "course_4_what_it_remembers.ipynb": [],
    "course_5_what_it_hangs_on.ipynb": [
        ("What shape is the blue thing in", "square"),
        ("Is there a star?", "no"),
        ("What colour is the background", "white"),
    ],
    "course_6_right_and_sure.ipynb": [],
    "course_7_teach_it.ipynb": [
        ("What shape is it? [picture: unseen", r"(?!.*heart)"),  # before the lesson
        ("[picture: unseen", r"heart$"),
    ],
    "course_8_smaller_bigger_elsewhere.ipynb": [
        ("What is in", r"(?=.*red circle)(?=.*green triangle)(?=.*blue square)"),
    ],
    "course_9_jobs_of_the_guides.ipynb": [
        ("[picture: photo, 240×240 px, 39 tokens]", r"(?=.*red circle)(?=.*blue square)"),
        ("[after 2 examples", r"An image of a red circle\. Fun fact: I like it\."),
        ("Where is the square", "in the bottom right"),
        ("Write a short story", r"(?=.*red circle)(?=.*blue square)"),
        ("And here is another one", "the first"),
        ("How many circles are in the first", r"1|one"),
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
    "course_1_pixels_to_tokens.ipynb": [
        r"^50 tokens, 39 of them for 1 picture",
        r"^ 80 pixels across: A red circle\.$",
        r"^ 10 pixels across: (?!A red circle)",
    ],
    "course_2_prompt_is_a_script.ipynb": [
        r"^Assistant: green<end_of_utterance>\nUser: And what shape\?",
        r"^special_tokens=False: 86 tokens\nspecial_tokens=True: 64 tokens$",
    ],
    "course_3_one_word_at_a_time.ipynb": [r"^' circle' .*likeliest: ' circle'", r"^\[80, 160, 250, 340\]$"],
    "course_4_what_it_remembers.ipynb": [
        r"^turn 8: 160 tokens in the prompt, 146 kept, 14 computed   the blue square$",
        r"^tokens computed in all: 845 from nothing, ",
        r"^5,120 bytes a token",
    ],
    "course_5_what_it_hangs_on.ipynb": [
        r"^without the circle +square$",
        r"Needed: without this part \(lower right\) it says",
        r"^No single part decides",
        r"^the peak touches an object in 1[012] of 12 scenes; hiding it changes the answer in [0-3]$",
        r"^no single part decides: 1[012] of 12 scenes$",
        r"It needed the picture",
    ],
    "course_6_right_and_sure.ipynb": [
        r"^0\.0 % right \(0 of 60; 95 % interval 0\.0 to 6\.0 %\)$",
        r"^60\.0 % right \(36 of 60; 95 % interval 47\.4 to 71\.4 %\)$",
        r"^wrong: 24 answers, mean confidence (9\d|100) %$",
    ],
    "course_7_teach_it.ipynb": [
        r"^2 of \d\d tokens are learned|^\d of \d\d tokens are learned",
        r"^new: 0 of 8 right before, 8 after$",
        r"^on:  heart$",
        r"^it says now: \{'heart'",
    ],
    "course_8_smaller_bigger_elsewhere.ipynb": [
        r"^ 4 bits:  1\.5 GB$",
        r"^full  100\.0 % right",
        r"^nothing answers at 127\.0\.0\.1:9$",
    ],
    "course_9_jobs_of_the_guides.ipynb": [
        r"^'in the bottom right'$",
        r"^\('circle', 1\.0\)$",
        r"^\['red', 'green', 'blue', 'black'\]$",
        r"^\['A', ' red', ' circle'",
    ],
}

REFERENCE = [path for path in NOTEBOOKS if path.name.startswith("0")]  # the course runs once, to save time
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


TRANSCRIPT = re.compile(r'class="vlm [\w ]*\bvlm-transcript\b')


def transcripts(path: Path, kind: str = "text/plain") -> list[str]:
    """The shown answers, one text for each output that is a transcript."""
    bundles = [output.get("data", {}) for cell in code_cells(path) for output in cell["outputs"]]
    return [
        "".join(bundle[kind]) for bundle in bundles if TRANSCRIPT.search("".join(bundle.get("text/html", "")))
    ]


def answers(path: Path) -> list[tuple[str, str]]:
    """Each question with its answer, as the transcripts show them."""
    pairs = []
    for text in transcripts(path):
        pairs += re.findall(r"^You: (.*?)\n[\w. -]+: (.*?)\n\[\d+ tokens?", text, re.DOTALL | re.MULTILINE)
    return pairs


@pytest.fixture(scope="module", autouse=True)
def _fonts_are_known() -> None:
    """A cache of fonts is built once in a new home, which a cell would say when it takes seconds."""
    import matplotlib.font_manager  # noqa: F401


def run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``python -m …`` as a person would; kernels find the package of this checkout."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTEST_ADDOPTS": ""}
    environment.pop("MPLBACKEND", None)  # a kernel shows figures in its notebook
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


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.name)
def test_jupyter_execute_gives_the_same_answers(path: Path, tmp_path: Path) -> None:
    """And nbconvert shows them on a page with their thumbnails, where no kernel and no widget runs."""
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    run("jupyter", "execute", "--inplace", copy.name, folder=tmp_path)
    assert answers(copy) == answers(path)
    run("jupyter", "nbconvert", "--to", "html", copy.name, folder=tmp_path)
    page = copy.with_suffix(".html").read_text(encoding="utf-8")
    assert len(TRANSCRIPT.findall(page)) == len(transcripts(path))
    assert len(re.findall(r'<img [^>]*src="data:image/\w+;base64,', page)) >= len(answers(path)) // 2
    for _, answer in answers(path):
        assert answer.splitlines()[0] in page


def test_the_course_is_reached_from_its_index_and_each_part_from_the_next() -> None:
    """Every link of a notebook leads to one that is there, and the README names them all."""
    names = {path.name for path in NOTEBOOKS}
    links = {
        path.name: set(re.findall(r"\]\(([\w.-]+\.ipynb)\)", path.read_text(encoding="utf-8")))
        for path in NOTEBOOKS
    }
    assert set().union(*links.values()) <= names
    assert links["course_0_start_here.ipynb"] == names - {"course_0_start_here.ipynb"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in sorted(name for name in names if name.startswith("course_")):
        assert name in readme
        assert (
            "<details>" in (text := (ROOT / "notebooks" / name).read_text(encoding="utf-8")) or "_0_" in name
        )
        assert text.count("**Predict.**") >= 3 or "_0_" in name


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
