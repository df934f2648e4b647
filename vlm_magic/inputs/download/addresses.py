"""Which addresses are fetched from: public ones, and those of hosts that the person allowed.

A name is resolved once, its addresses are checked, and the connection goes to an address that passed
(see `connections`), so that a name that changes its mind between check and use gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import urllib.parse
from typing import TypeAlias

from vlm_magic.errors import FetchError, FetchRefusedError

__all__ = ["Address", "checked_addresses", "host_of", "is_allowed", "is_public"]

Address: TypeAlias = tuple[int, str]  # (socket family, IP address)

# Networks that are never reached, above what ``ipaddress`` calls not global: its answers changed between
# Python releases. Those that carry an IPv4 address inside are refused whole, whatever it is.
_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "100.64.0.0/10",  # carrier-grade NAT
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
        "240.0.0.0/4",  # reserved, and broadcast
        "::/96",  # IPv4-compatible, unspecified and loopback
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 for local use
        "100::/64",  # discard
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # unique local
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, as it was once
        "ff00::/8",  # multicast
    )
)


def is_public(ip: str) -> bool:
    """Whether an IP address is one that anybody on the internet may reach."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_loopback:
        return False
    return not any(address.version == network.version and address in network for network in _REFUSED)


def host_of(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a URL, the host in lower case without a final dot.

    Raises:
        FetchRefusedError: no http(s) URL, or no host in it.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError as exc:
        raise FetchRefusedError(
            "a URL that cannot be read", have=str(exc).split(":")[0], hint="check its spelling in a browser"
        ) from exc
    if scheme not in ("http", "https"):
        raise FetchRefusedError(
            f"a {scheme or 'relative'} address is not fetched",
            have="http and https are",
            hint="a path without file://",
        )
    if not host:
        raise FetchRefusedError(
            "a URL without a host", have="nothing between // and the path", hint="https://host/picture.png"
        )
    return scheme, host.lower().rstrip("."), port or (443 if scheme == "https" else 80)


def is_allowed(host: str, port: int, allow_hosts: tuple[str, ...]) -> bool:
    """Whether the person allowed the host by name, alone or with its port."""
    shown = f"[{host}]" if ":" in host else host
    allowed = {entry.lower().rstrip(".") for entry in allow_hosts}
    return bool(allowed & {host, shown, f"{shown}:{port}"})


def checked_addresses(
    host: str, port: int, *, allow_hosts: tuple[str, ...], timeout_s: float
) -> list[Address]:
    """The addresses of a host that may be connected to, in the resolver's order.

    Raises:
        FetchRefusedError: only private, local or reserved addresses; nothing was connected to.
        FetchError: the name does not resolve, or not in time.
    """
    found = _resolved(host, port, timeout_s)
    if is_allowed(host, port, allow_hosts):
        return found
    public = [address for address in found if is_public(address[1])]
    if not public:
        raise FetchRefusedError(
            f"{host} is not fetched from",
            have="its address is private, local or reserved",
            hint=f'%config VLMMagics.allow_hosts = ["{host}"], or to_pil(…, allow_hosts=["{host}"])',
            host=host,
        )
    return public


def _resolved(host: str, port: int, timeout_s: float) -> list[Address]:
    """Resolve in a thread: the system's resolver knows no deadline."""
    found: list[Address] = []
    failure: list[Exception] = []

    def ask() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                if (entry := (int(family), str(address[0]))) not in found:
                    found.append(entry)
        except (OSError, UnicodeError, ValueError) as exc:
            failure.append(exc)

    asking = threading.Thread(target=ask, name="vlm_magic-resolve", daemon=True)
    asking.start()
    asking.join(max(0.0, timeout_s))
    if asking.is_alive():
        raise FetchError(
            f"the name {host} does not resolve in time",
            have=f"no answer in {timeout_s:.0f} s",
            hint="check the network, or give a file",
        )
    if failure or not found:
        raise FetchError(
            f"the name {host} does not resolve",
            have="no such host, or no network",
            hint="check the spelling, or give a file",
            host=host,
        ) from (failure[0] if failure else None)
    return found
