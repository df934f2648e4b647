"""Render chat templates where they can do no harm: in a child process with a short leash.

A template is a program that comes with a checkpoint. Its sandbox keeps it from the system, not from taking
all time and memory, and one that is quick today may hang when the conversation has grown. So each rendering
of a foreign template happens in a child (`template_child`) that is ended when it takes too long, and whoever
waits can be interrupted at any time. A child lives on for the next rendering; a few are kept.

Knows templates and messages; knows nothing of models. Neighbours: `layouts` renders here, `template_probe`
tries a template out beforehand.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vlm_magic.work_queue import Stopped, is_unwanted

__all__ = ["LIMIT_BYTES", "LIMIT_S", "Rendering", "close_all", "is_trusted", "render", "start", "trust"]

LIMIT_S = 2.0
LIMIT_BYTES = 256 * 1024 * 1024
LIMIT_CHARS = 4 * 1024 * 1024  # of a rendered prompt: more than a million tokens
_START_S = 20.0  # for the interpreter and jinja2 on a busy machine; the child counts only its own rendering
_LOOK_S = 0.05  # between two looks at whether somebody wants to leave
_MOST_CHILDREN = 4
_PROGRAM = Path(__file__).with_name("template_child.py")

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rendering:
    """What came of a rendering.

    Attributes:
        kind: "text"; "refused" (the template's own ``raise_exception``), "failed" (an error in it), "broken"
            (it is no template); "time", "memory" and "size" for one that took too much.
        text: the rendered prompt.
        words: what the template or jinja2 said.
    """

    kind: Literal["text", "refused", "failed", "broken", "time", "memory", "size"]
    text: str = ""
    words: str = ""

    @property
    def took_too_much(self) -> bool:
        """Whether it was ended for what it took."""
        return self.kind in ("time", "memory", "size")


_trusted: set[str] = set()
_children: OrderedDict[str, _Child] = OrderedDict()  # the least recently used first
_lock = threading.Lock()


def render(
    template: str,
    names: Mapping[str, Any],
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    **options: Any,
) -> Rendering:
    """Render a template in its child.

    Args:
        template: a chat template.
        names: what it is given beside the messages (``bos_token`` and the like).
        messages: what was said, in the form of transformers' chat messages.
        add_generation_prompt: whether an answer is to follow.
        options: further variables of the template (``enable_thinking``).

    Raises:
        Stopped: the answer that it was for is not wanted any more.
    """
    given = {**names, **options, "messages": messages, "add_generation_prompt": add_generation_prompt}
    for _ in range(2):  # a child that ended in its sleep is replaced once
        child = start(template)
        answer = child.ask(given)
        if answer is not None:
            return answer
        _drop(child)
        if child.was_slow:
            break
    return Rendering("time")


def start(template: str) -> _Child:
    """The child of a template, started if there is none; it gets ready while others go on."""
    key = hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()
    with _lock:
        child = _children.pop(key, None)
        if child is not None and not child.is_alive:
            child.close()
            child = None
        child = child or _Child(template)
        _children[key] = child
        while len(_children) > _MOST_CHILDREN:
            _children.popitem(last=False)[1].close()
        return child


def trust(template: str) -> None:
    """Take a template for harmless: it is this package's own, and is rendered in the kernel."""
    _trusted.add(template)


def is_trusted(template: str) -> bool:
    """Whether it may be rendered in the kernel."""
    return template in _trusted


@atexit.register
def close_all() -> None:
    """End all children."""
    with _lock:
        while _children:
            _children.popitem()[1].close()


def _drop(child: _Child) -> None:
    with _lock:
        for key, other in list(_children.items()):
            if other is child:
                del _children[key]
    child.close()


class _Child:
    """A process that renders one template.

    Attributes:
        was_slow: whether its last rendering was ended, by its own limits or by ours.

    Raises:
        OSError: this system starts no processes.
    """

    def __init__(self, template: str) -> None:
        self._busy = threading.Lock()
        self._rest = b""
        self.was_slow = False
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is the kernel's alone
        )
        self._began = time.monotonic()
        setup = {
            "paths": _folders_of("jinja2", "markupsafe"),
            "template": template,
            "limit_s": LIMIT_S,
            "limit_bytes": LIMIT_BYTES,
            "limit_chars": LIMIT_CHARS,
        }
        with suppress(OSError):  # it is dead already; asking it says so
            self._write(setup)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, given: Mapping[str, Any]) -> Rendering | None:
        """One rendering; None where the child ended, or was ended, without an answer."""
        with self._busy:
            self.was_slow = False
            try:
                self._write(given)
                line = self._line()
            except OSError:
                return None
            except BaseException:  # interrupted: what it would still say is nobody's answer
                self.close()
                raise
        return None if line is None else Rendering(**json.loads(line))

    def close(self) -> None:
        """End it, whatever it does."""
        process = self._process
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        if self._process.stdin.closed:  # another thread was interrupted while it waited for an answer
            raise BrokenPipeError
        self._process.stdin.write(json.dumps(record).encode() + b"\n")
        self._process.stdin.flush()

    def _line(self) -> bytes | None:
        """The next line that it prints; None where there comes none."""
        assert self._process.stdout is not None
        if os.name == "nt":  # pipes cannot be waited for there
            timer = threading.Timer(LIMIT_S + _START_S, self._process.kill)
            timer.start()
            line = self._process.stdout.readline()
            timer.cancel()
            self.was_slow = not line
            return line or None
        end_s = time.monotonic() + LIMIT_S + _START_S
        while b"\n" not in self._rest:
            if is_unwanted():
                raise Stopped
            ready, _, _ = select.select([self._process.stdout], [], [], _LOOK_S)
            if ready:
                read = os.read(self._process.stdout.fileno(), 1 << 16)
                if not read:
                    self.was_slow = self._process.wait() not in (0, -signal.SIGALRM)  # ended for what it took
                    return None
                self._rest += read
            elif time.monotonic() > end_s:
                self.was_slow = True
                return None
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _folders_of(*packages: str) -> list[str]:
    """Where these packages are imported from, so that the child needs no site-packages."""
    folders = []
    for package in packages:
        spec = find_spec(package)
        if spec is not None and spec.origin:
            folders.append(str(Path(spec.origin).parents[1]))
    return list(dict.fromkeys(folders))
