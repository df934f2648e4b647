"""The program of the child process that renders a chat template: jinja2 and the standard library alone.

Run by path, never imported by the kernel. It reads one JSON line that holds the template and the limits, then
one line for each rendering, and answers each with a line. The kernel cannot be hurt by what a template does:
here it has 2 seconds of computing time for each rendering, 256 MB and no more output than was asked for.

Source: the environment is that of transformers' ``chat_template_utils`` (5.23). Neighbours: `templates`
starts it.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

IDLE_S = 600.0  # a child that nobody asks any more ends by itself


def main() -> None:
    """Answer until the kernel closes the line."""
    setup = json.loads(sys.stdin.readline())
    sys.path[:0] = setup["paths"]
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Refused(jinja2.exceptions.TemplateError):
        pass

    class Generation(jinja2.ext.Extension):
        tags: set[str] = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> Any:
            return caller()

    def refuse(message: str) -> None:
        raise Refused(message)

    def tojson(
        x: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    _limit_memory(setup["limit_bytes"])
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    template = None
    for line in iter(sys.stdin.readline, ""):
        _limit_time(setup["limit_s"])
        try:
            if template is None:
                template = environment.from_string(setup["template"])
            answer = _rendered(template, json.loads(line), setup["limit_chars"])
        except MemoryError:
            answer = {"kind": "memory"}
        except Refused as error:
            answer = {"kind": "refused", "words": str(error)}
        except Exception as error:
            kind = "broken" if template is None else "failed"
            answer = {"kind": kind, "words": f"{type(error).__name__}: {error}"[:300]}
        _limit_time(0)
        print(json.dumps(answer), flush=True)


def _rendered(template: Any, given: dict[str, Any], limit_chars: int) -> dict[str, str]:
    """The text of one rendering; piece by piece, so that an endless one is seen in time."""
    pieces: list[str] = []
    n_chars = 0
    for piece in template.generate(tools=None, documents=None, **given):
        pieces.append(piece)
        n_chars += len(piece)
        if n_chars > limit_chars:
            return {"kind": "size"}
    return {"kind": "text", "text": "".join(pieces)}


def _limit_memory(n_bytes: int) -> None:
    """Beyond what the interpreter and jinja2 have taken; where the system knows such limits."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + n_bytes,) * 2)
    except (ImportError, OSError, ValueError):
        return


def _limit_time(limit_s: float) -> None:
    """Computing time of a rendering; 0 for the wait between two, which is bounded too."""
    try:
        import signal

        signal.setitimer(signal.ITIMER_PROF, limit_s)
        signal.setitimer(signal.ITIMER_REAL, 0.0 if limit_s else IDLE_S)
    except (ImportError, AttributeError):  # Windows: the kernel ends a child that does not answer
        return


if __name__ == "__main__":
    main()
