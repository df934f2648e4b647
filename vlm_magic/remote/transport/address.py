"""Where requests may go: the address of a server, and the key that belongs to it.

A key is the name of an environment variable. It is read when a request is made, goes to the one host that
it was named for, and is taken out of every text that comes back. Knows nothing of requests or models.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import urllib.parse
from dataclasses import dataclass

from vlm_magic.errors import OptionError
from vlm_magic.wording import shorten

__all__ = ["Address", "is_url"]


def is_url(text: str) -> bool:
    """Whether this is the address of a server, not a model's folder or id."""
    return text.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        base: what paths are added to, ``http://host:8000/v1``.
        host: as people know it, with its port where that is not the scheme's own.
        key_env: the environment variable that holds its key; "" for none.
    """

    base: str
    host: str
    key_env: str = ""

    @classmethod
    def of(cls, url: str, key_env: str | None = None, *, allow_plain_key: bool = False) -> Address:
        """Read a URL; ``/v1`` is added where it names no path.

        Args:
            url: http(s), with or without ``/v1`` or the path of the chat completions.
            key_env: the environment variable that holds the key for this host.
            allow_plain_key: send the key without TLS to a host outside this machine and private networks.

        Raises:
            OptionError: no such URL, one that holds a secret, no such variable, or a key in the open.
        """
        try:
            parts = urllib.parse.urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise OptionError("an address that cannot be read", have=shorten(error, 80), hint=_HINT) from None
        if parts.scheme.lower() not in ("http", "https") or not host:
            raise OptionError(f"{shorten(url, 80)} is not a server's address", hint=_HINT)
        if parts.username or parts.password:
            raise OptionError(
                "a user name or password in an address would be saved with the notebook",
                hint="--key-env VARIABLE, with the key in that environment variable",
            )
        if parts.query or parts.fragment:
            raise OptionError(f"an address with ? or # in it: {host}", hint=_HINT)
        path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        shown = f"[{host}]" if ":" in host else host
        named = (
            shown if port in (None, {"http": 80, "https": 443}[parts.scheme.lower()]) else f"{shown}:{port}"
        )
        made = cls(f"{parts.scheme.lower()}://{named}{path}", named, key_env or "")
        made._check_key(parts.scheme.lower(), host, allow_plain_key)
        return made

    @property
    def root(self) -> str:
        """The address without its path's last part, where some servers answer what ``/v1`` does not."""
        return self.base.removesuffix("/v1")

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, by its name."""
        host = self.host.rpartition(":")[0] or self.host
        return self.host.startswith("[::1]") or host.startswith("127.") or "localhost" in (host, self.host)

    def key(self) -> str:
        """The key as the environment has it now; "" for none.

        Raises:
            OptionError: the variable is not there, or holds something that no header can.
        """
        if not self.key_env:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise OptionError(
                f"the environment variable {self.key_env} is not set",
                have=f"the key for {self.host} should be in it",
                hint=f"set {self.key_env} before Jupyter is started, or os.environ[{self.key_env!r}] = …",
            )
        if not key.isascii() or not key.isprintable():
            raise OptionError(
                f"{self.key_env} is not a key: it has line breaks or letters that no header can have"
            )
        return key

    def scrub(self, text: str) -> str:
        """A text of the server without the key, should it repeat it."""
        key = os.environ.get(self.key_env, "").strip() if self.key_env else ""
        return text.replace(key, "…") if key else text

    def _check_key(self, scheme: str, host: str, allow_plain_key: bool) -> None:
        if self.key_env:
            self.key()
            if scheme == "http" and not allow_plain_key and not _is_near(host):
                raise OptionError(
                    f"a key would go to {self.host} without TLS, readable on the way",
                    have="http:// to a host outside this machine and private networks",
                    hint="https://…, or --allow-plain-key where you trust that network",
                )


_HINT = "http://127.0.0.1:8000/v1"


def _is_near(host: str) -> bool:
    """Whether every address of a host is on this machine or a private network."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(ip.partition("%")[0]) for ip in found]
    return bool(addresses) and all(address.is_private or address.is_loopback for address in addresses)
