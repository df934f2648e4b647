"""From an address to an engine: who is there, which model is meant, what it can do.

Knows addresses, wires and probes; nothing of what is resident. Neighbour: `vlm_magic.workspace.residents`
keeps the engine under its name.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from vlm_magic.errors import OptionError
from vlm_magic.remote.engine import RemoteEngine
from vlm_magic.remote.probe import find_out
from vlm_magic.remote.transport.address import Address
from vlm_magic.remote.transport.wire import Wire

__all__ = ["connect_to"]

_AT_ONCE = 8  # rows under way on a server that does not say how many it takes
_MOST_AT_ONCE = 64


def connect_to(
    url: str | Sequence[str],
    model: str | None = None,
    *,
    name: str | None = None,
    key_env: str | Sequence[str] | None = None,
    timeout_s: float = 300.0,
    at_once: int | None = None,
    picture_px: int = 2048,
    allow_plain_key: bool = False,
) -> RemoteEngine:
    """An engine whose model answers elsewhere.

    Args:
        url: of an OpenAI-compatible server, ``http://host:8000/v1``; several hold the same model.
        model: its name there; not needed where there is one.
        name: how to call it; the model's own name if not given.
        key_env: the environment variable that holds the key for this host; for several hosts one for each,
            in a list or with commas between them.
        timeout_s: the longest silence of the server.
        at_once: rows of a map that are under way at a time; if not given, twice what a server says that it
            answers side by side, and 8 for one that does not say.
        picture_px: larger pictures are scaled down to this longest side.
        allow_plain_key: send the key without TLS beyond this machine and private networks.

    Raises:
        OptionError: an address, key or number that does not do.
        ModelError: nobody answers, the key is refused, or there is no such model.
    """
    urls = [url] if isinstance(url, str) else list(url)
    for what, number in (("timeout_s", timeout_s), ("at_once", at_once or 1), ("picture_px", picture_px)):
        if not number > 0:
            raise OptionError(f"{what} is {number!r}", have="a number above 0")
    if not urls:
        raise OptionError("no address of a server", hint="connect('http://127.0.0.1:8000/v1')")
    addresses = [
        Address.of(each, key, allow_plain_key=allow_plain_key)
        for each, key in zip(urls, _keys_for(urls, key_env), strict=True)
    ]
    wires = [Wire(address, timeout_s, (at_once or _MOST_AT_ONCE) + 1) for address in addresses]
    with wires[0].trying_once():
        found = find_out(wires[0], model)
    n_at_once = at_once or len(urls) * min(2 * (found.n_slots or _AT_ONCE // 2), _MOST_AT_ONCE)
    own = found.model.rstrip("/").rpartition("/")[2]
    again = functools.partial(
        connect_to,
        urls,
        found.model,
        name=name or own,
        key_env=key_env,  # the variable's name: a key never leaves its process but for its host
        timeout_s=timeout_s,
        at_once=n_at_once,
        picture_px=picture_px,
        allow_plain_key=allow_plain_key,
    )
    return RemoteEngine(
        wires, found, name=name or own, at_once=n_at_once, picture_px=picture_px, connect=again
    )


def _keys_for(urls: Sequence[str], key_env: str | Sequence[str] | None) -> list[str | None]:
    """The variable of each server's key: one for all where they are on one host, else one for each.

    Raises:
        OptionError: one key for several hosts, or another number of keys than of servers.
    """
    names = key_env.split(",") if isinstance(key_env, str) else list(key_env or ())
    if not names:
        return [None] * len(urls)
    hosts = [Address.of(url).host for url in urls]
    if len(names) == 1 and len({host.rpartition(":")[0] or host for host in hosts}) == 1:
        return [names[0]] * len(urls)
    if len(names) != len(urls):
        raise OptionError(
            "one key for servers on several hosts"
            if len(names) == 1
            else f"{len(names)} keys for {len(urls)} servers",
            have=", ".join(hosts),
            hint=f"a key for each host: --key-env {','.join([names[0].strip()] * len(urls))}",
        )
    return [name.strip() for name in names]
