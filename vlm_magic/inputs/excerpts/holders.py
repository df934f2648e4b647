"""Pages of a PDF and frames of a video, as pictures.

Their decoders are large C libraries, so each file is read in a child process with limits on time and memory:
one that hangs, grows or crashes is an error here. pypdfium2 and PyAV are extras ("pdf", "video").
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO

from PIL import Image

from vlm_magic.errors import PictureDecodeError, PictureError
from vlm_magic.inputs.excerpts.fragments import Excerpt

__all__ = ["HeldPicture", "read_holder"]

FIRST = 8  # pages, or frames, where nobody says which
MOST = 32  # that one place of a prompt may bring
_LONGEST_PX = 1600
_LIMIT_S = 20.0
_START_S = 20.0  # for the interpreter and the library on a busy machine
_LIMIT_BYTES = 3_000_000_000  # of address space; the libraries reserve more than they use
_LIBRARIES = {"PDF": ("pypdfium2", "pdf"), "video": ("av", "video")}

_CHILD = r"""
import io, json, signal, sys
task = json.loads(sys.argv[1])
sys.path[:0] = task["paths"]
out = sys.stdout.buffer
def send(image, at, n):
    image.thumbnail((task["longest_px"],) * 2)
    head = {"size": image.size, "at": at, "n": n}
    out.write(json.dumps(head).encode() + b"\n" + image.convert("RGB").tobytes())
raw = sys.stdin.buffer.read()
source = task["path"] or (raw if task["kind"] == "PDF" else io.BytesIO(raw))
try:
    if task["kind"] == "PDF":
        import pypdfium2
    else:
        import av
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (task["limit_bytes"],) * 2)
        signal.setitimer(signal.ITIMER_REAL, task["limit_s"])
    except (ImportError, AttributeError, ValueError, OSError):
        pass
    if task["kind"] == "PDF":
        document = pypdfium2.PdfDocument(source)
        n = len(document)
        first, last = task["pages"] or (1, min(n, task["first"]))
        for page in range(first, min(last, n, first + task["most"] - 1) + 1):
            sheet = document[page - 1]
            scale = min(2.0, task["longest_px"] / max(*sheet.get_size(), 1))
            send(sheet.render(scale=scale).to_pil(), page, n)
        if first > n:
            out.write(json.dumps({"n": n}).encode() + b"\n")
    else:
        container = av.open(source)
        stream = container.streams.video[0]
        length = (container.duration or 0) / 1e6
        if stream.duration:
            length = float(stream.duration * stream.time_base)
        begin, end = task["times_s"] or (0.0, length)
        begun = float((stream.start_time or 0) * stream.time_base)
        count = task["n_frames"] or (1 if end is None else task["first"])
        if task["times_s"] is None and stream.frames:
            count = min(count, stream.frames)
        end = begin if end is None else min(end, length or end)
        times = [begin + (end - begin) * (i + 0.5) / count for i in range(count)] if end > begin else [begin]
        for t in times:
            if length and t > length:
                break
            container.seek(int((t + begun) / stream.time_base), stream=stream)
            found = None
            for frame in container.decode(stream):
                if frame.time is not None and found is not None and frame.time - begun > t + 1e-6:
                    break
                found = frame
            if found is not None:
                image = found.to_image()
                turn = getattr(found, "rotation", 0) % 360
                send(image.rotate(turn, expand=True) if turn else image, round(t, 3), length)
        if begin > (length or begin):
            out.write(json.dumps({"n": length}).encode() + b"\n")
except MemoryError:
    out.write(b'{"error": "it takes too much memory"}\n')
except Exception as error:
    out.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:160]}).encode() + b"\n")
"""


@dataclass(frozen=True, slots=True)
class HeldPicture:
    """One page or frame: its pixels, which it is ("page 3", "3.5 s"), and of how many."""

    image: Image.Image
    place: str
    note: str


def read_holder(kind: str, source: bytes | IO[bytes], excerpt: Excerpt, name: str) -> list[HeldPicture]:
    """The pages or frames that were asked for.

    Args:
        kind: "PDF" or "video".
        source: its bytes, or the open file of a large one.
        excerpt: which; without pages or times the first pages, or frames evenly spaced.
        name: for errors.

    Raises:
        PictureDecodeError: broken, too slow, too large, or its library is not installed.
        PictureError: no such page or second.
    """
    _check(kind, excerpt, name)
    path = "" if isinstance(source, bytes) else str(getattr(source, "path", ""))
    task = {
        "kind": kind,
        "path": path,
        "paths": sys.path,
        "pages": excerpt.pages,
        "times_s": excerpt.times_s,
        "n_frames": excerpt.n_frames,
        "first": FIRST,
        "most": MOST,
        "longest_px": _LONGEST_PX,
        "limit_s": _LIMIT_S,
        "limit_bytes": _LIMIT_BYTES,
    }
    command = [sys.executable, "-c", _CHILD, json.dumps(task)]
    data = source if isinstance(source, bytes) else b""
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=_LIMIT_S + _START_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _too_slow(kind, name) from None
    if done.returncode == -14:  # SIGALRM
        raise _too_slow(kind, name)
    return _read(kind, done.stdout, done.returncode, excerpt, name)


def _check(kind: str, excerpt: Excerpt, name: str) -> None:
    module, extra = _LIBRARIES[kind]
    if find_spec(module) is None:
        raise PictureDecodeError(
            f"{name} is a {kind}",
            have=f"those are read by the package {module}, which is not installed",
            hint=f'%pip install "vlm_magic[{extra}]"',
        )
    if (kind == "PDF" and excerpt.times_s) or (kind == "video" and excerpt.pages):
        raise PictureError(
            f"{name} is a {kind}",
            have="a PDF has pages, a video has seconds",
            hint="#page=3" if kind == "PDF" else "#t=3.5",
        )
    asked = excerpt.pages[1] - excerpt.pages[0] + 1 if excerpt.pages else excerpt.n_frames or 1
    if asked > MOST:
        raise PictureError(
            f"{name}: {asked} {'pages' if kind == 'PDF' else 'frames'} at one place",
            have=f"at most {MOST}",
            hint=f"#page={excerpt.pages[0]}-{excerpt.pages[0] + MOST - 1}"
            if excerpt.pages
            else f"frames={MOST}",
        )


def _too_slow(kind: str, name: str) -> PictureDecodeError:
    return PictureDecodeError(
        f"{name} took more than {_LIMIT_S:g} s to read",
        have=f"a {kind} that is hard to read",
        hint="fewer pages or frames, or pictures made of them elsewhere",
    )


def _read(kind: str, data: bytes, status: int, excerpt: Excerpt, name: str) -> list[HeldPicture]:
    found: list[HeldPicture] = []
    n: float = 0
    pos = 0
    while (end := data.find(b"\n", pos)) >= 0:
        head, pos = json.loads(data[pos:end]), end + 1
        if "error" in head:
            raise _broken(kind, name, head["error"])
        n = head["n"]
        if "size" not in head:
            break
        size = tuple(head["size"])
        n_bytes = 3 * size[0] * size[1]
        if len(data) < pos + n_bytes:
            raise _broken(kind, name, "its reader ended early")
        image = Image.frombytes("RGB", size, data[pos : pos + n_bytes])
        pos += n_bytes
        at = head["at"]
        place = f"page {at}" if kind == "PDF" else f"{at:g} s"
        found.append(
            HeldPicture(image, place, f"{place} of {n:g}" if kind == "PDF" else f"{place} of {n:.4g} s")
        )
    if found:
        return _with_limit(kind, found, n, excerpt)
    if status or not n:
        raise _broken(kind, name, f"its reader ended with {status}" if status else "there is nothing in it")
    last = f"{n:g} pages" if kind == "PDF" else f"{n:.4g} s"
    raise PictureError(
        f"{name} has no such {'page' if kind == 'PDF' else 'second'}",
        have=last,
        hint=f"#page={n:g}" if kind == "PDF" else f"#t={max(0, n - 0.1):.3g}",
    )


def _with_limit(kind: str, found: list[HeldPicture], n: float, excerpt: Excerpt) -> list[HeldPicture]:
    """Say in the notes that there is more, where nobody said which part."""
    more = ""
    if kind == "PDF" and not excerpt.pages and n > len(found):
        more = f"; the first {len(found)}, #page=… for others"
    elif kind == "video" and not excerpt.times_s:
        more = f"; {len(found)} frames evenly spaced, #t=… for others"
    return [HeldPicture(held.image, held.place, held.note + more) for held in found]


def _broken(kind: str, name: str, why: str) -> PictureDecodeError:
    return PictureDecodeError(
        f"{name} is a broken {kind}", have=why, hint="open it in a viewer, or save it again"
    )
