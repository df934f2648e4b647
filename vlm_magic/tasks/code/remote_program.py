"""Show me the code, of an answer from a server: a plain program with requests that asks the same again.

The pictures are written as they were sent. Knows requests as engines tell them; nothing of kinds of servers.
Neighbours: `program` writes those of models here, `parts` writes literals.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Elsewhere, Settings, Turn
from vlm_magic.tasks.code.parts import literal
from vlm_magic.wording import shorten

__all__ = ["remote_program"]

_HEAD = '''"""The same question to the same server with requests alone, written by %vlm_code."""
'''
_PICTURE = '''

def data_uri(path, kind):
    """A picture as it was sent: its bytes, not its address."""
    return f"data:{kind};base64," + base64.b64encode(open(path, "rb").read()).decode("ascii")
'''


def remote_program(
    engine: Elsewhere,
    turns: Sequence[Turn],
    settings: Settings,
    *,
    folder: Path | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """The program that asks ``turns`` as the engine does.

    Args:
        engine: whose server is asked.
        turns: what the model is shown, the question last; pictures decoded.
        settings: how it was asked.
        folder: where the pictures are put; ``vlm_code_pictures`` if not given.
        remarks: for the head of the program.

    Raises:
        OptionError: choices, which take many requests; or a picture that cannot be written.
    """
    if settings.choices:
        raise OptionError(
            "choices on a server take many requests, not a short program",
            hint="engine.score(turns, choices, settings) in plain Python",
        )
    asked = engine.request_for(turns, settings)
    body = {name: value for name, value in asked.body.items() if name not in ("stream", "stream_options")}
    pictures = folder or Path("vlm_code_pictures")
    messages = [_message(message, pictures) for message in body.pop("messages")]
    has_pictures = any("data_uri(" in message for message in messages)
    lines = [_HEAD, *(f"# {remark}" for remark in remarks)]
    lines += ["import base64"] if has_pictures else []
    lines += ["import json"] if asked.inside else []
    lines += ["import os"] if asked.key_env else []
    lines += ["", "import requests"] if len(lines) > 1 + len(remarks) else ["import requests"]
    lines += [_PICTURE, ""] if has_pictures else [""]
    lines += ["messages = [", *(f"    {message}," for message in messages), "]"]
    lines += ["body = {", '    "messages": messages,']
    lines += [f"    {literal(name)}: {literal(value)}," for name, value in body.items()]
    lines += ["}"]
    header = ', headers={"Authorization": "Bearer " + os.environ[' + literal(asked.key_env) + "]}"
    lines += [f"answer = requests.post({literal(asked.url)}, json=body{header if asked.key_env else ''})"]
    lines += ["answer.raise_for_status()", 'said = answer.json()["choices"][0]["message"]["content"].strip()']
    lines += [f"print(json.loads(said)[{literal(asked.inside)}])" if asked.inside else "print(said)"]
    return "\n".join(lines) + "\n"


def _message(message: Mapping[str, Any], folder: Path) -> str:
    content = message["content"]
    if isinstance(content, str):
        return literal(message)
    parts = [_part(part, folder) for part in content]
    return f'{{"role": {literal(message["role"])}, "content": [{", ".join(parts)}]}}'


def _part(part: Mapping[str, Any], folder: Path) -> str:
    if part["type"] != "image_url":
        return literal(part)
    head, _, data = part["image_url"]["url"].partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    raw = base64.b64decode(data)
    name = f"picture-{hashlib.sha256(raw).hexdigest()[:8]}.{kind.rpartition('/')[2]}"
    path = folder.expanduser().resolve() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    except OSError as error:
        raise OptionError(
            f"cannot write {name} for the program",
            have=f"{path.parent}: {shorten(error, 80)}",
            hint="%vlm_code FILE with a file in a folder that can be written",
        ) from error
    return f'{{"type": "image_url", "image_url": {{"url": data_uri({literal(str(path))}, {literal(kind)})}}}}'
