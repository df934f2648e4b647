"""Render a chat template once in a child process with a short leash: 2 seconds and 256 MB.

A template is a program that comes with a checkpoint. Its sandbox keeps it from the system, not from taking
all time and memory, so before the first rendering in the kernel each template proves itself here. The child
imports jinja2 alone, with the settings that transformers gives it, and runs beside the reading of the
weights.

Source: the environment is that of ``transformers.utils.chat_template_utils`` (5.23). Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlm_magic.errors import ModelLoadError

__all__ = ["TemplateProbe"]

LIMIT_S = 2.0
LIMIT_BYTES = 256 * 1024 * 1024
_START_S = (
    20.0  # for the interpreter and jinja2 on a busy machine; the child itself counts only the rendering
)

_CHILD = r"""
import json, signal, sys
paths, limit_s, limit_bytes = json.loads(sys.argv[1])
sys.path[:0] = paths
from datetime import datetime
import jinja2, jinja2.ext, jinja2.sandbox, jinja2.nodes

class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)
    def _body(self, caller):
        return caller()

def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)

def to_json(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

task = json.load(sys.stdin)
try:
    import resource
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        now = 0
    if now:
        resource.setrlimit(resource.RLIMIT_AS, (now + limit_bytes,) * 2)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
except (ImportError, AttributeError):
    pass
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
environment.filters["tojson"] = to_json
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
said = ""
try:
    template = environment.from_string(task["template"])
except MemoryError:
    raise
except Exception as error:
    print(json.dumps({"error": "it is no template: " + str(error)[:200]}))
    sys.exit(0)
for messages in task["conversations"]:
    try:
        given = dict(task["names"], messages=messages, add_generation_prompt=True)
        template.render(tools=None, documents=None, **given)
    except MemoryError:
        raise
    except Exception as error:
        said = str(error)[:200]
print(json.dumps({"error": "", "said": said}))
"""

_PICTURE = {"type": "image"}
_BLOCKS = [
    {"role": "user", "content": [_PICTURE, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A red circle."}]},
    {"role": "user", "content": [{"type": "text", "text": "And this?"}, _PICTURE]},
]
_STRINGS = [
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": "A red circle."},
    {"role": "user", "content": "And this?"},
]
_proven: set[str] = set()


class TemplateProbe:
    """One rendering under way in a child process.

    Args:
        name: of the model, for messages.
        template: its chat template.
        names: what transformers passes beside the messages (``bos_token`` and the like).
    """

    def __init__(self, name: str, template: str, names: dict[str, str]) -> None:
        self._name = name
        self._digest = hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()
        self._child: subprocess.Popen[str] | None = None
        self.note = ""
        if self._digest in _proven:
            return
        task = {"template": template, "conversations": [_BLOCKS, _STRINGS], "names": names}
        setup = json.dumps([_folders_of("jinja2", "markupsafe"), LIMIT_S, LIMIT_BYTES])
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CHILD, setup],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            assert self._child.stdin is not None
            self._child.stdin.write(json.dumps(task))
            self._child.stdin.close()
            self._child.stdin = None  # `communicate` must not write to it again
        except OSError as error:  # systems without processes, such as a browser
            self.note = f"the chat template was not tried out beforehand ({type(error).__name__})"

    def result(self) -> None:
        """Wait for the verdict.

        Raises:
            ModelLoadError: it took too long or too much, or it is no template.
        """
        if self._child is None:
            return
        child, self._child = self._child, None
        try:
            output, _ = child.communicate(timeout=LIMIT_S + _START_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            output = ""
        verdict = _verdict(output)
        if verdict is None:
            raise ModelLoadError(
                f"the chat template of {self._name} does not come to an end",
                have=f"it was given {LIMIT_S:g} s and {LIMIT_BYTES >> 20} MB to render three short turns",
                hint="another checkpoint; a template is a program, and this one is broken or hostile",
            )
        if verdict["error"]:
            raise ModelLoadError(f"the chat template of {self._name} cannot be used", have=verdict["error"])
        _proven.add(self._digest)

    def cancel(self) -> None:
        """End the child, whatever it does."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def _verdict(output: str) -> dict[str, Any] | None:
    """What the child printed; None where it was ended before it could."""
    try:
        verdict: dict[str, Any] = json.loads(output)
    except ValueError:
        return None
    return verdict


def _folders_of(*packages: str) -> list[str]:
    """Where these packages are imported from, so that the child needs no site-packages."""
    folders = []
    for package in packages:
        spec = find_spec(package)
        if spec is not None and spec.origin:
            folders.append(str(Path(spec.origin).parents[1]))
    return list(dict.fromkeys(folders))
