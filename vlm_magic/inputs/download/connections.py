"""Connections of requests that go to a checked address and end at a deadline.

The host name stays what the server and its certificate are asked for; only the address that the socket
connects to is ours. A watchdog shuts the socket down when the deadline passes, because a socket time-out
starts again with every byte that drips.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError

from vlm_magic.errors import VLMError
from vlm_magic.inputs.download.addresses import checked_addresses

__all__ = ["Deadline", "new_session"]

_CONNECT_S = 5.0  # for one of several addresses


class Deadline:
    """A total time for one download. As a context it watches; `cancel` ends it from another thread."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._close)
        self._timer.daemon = True
        self.is_over = False

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._close(over=False)

    @property
    def left_s(self) -> float:
        """Seconds that are left; never below a millisecond, for socket time-outs."""
        return max(0.001, self._end - time.monotonic())

    @property
    def has_passed(self) -> bool:
        """Whether the time is up or the download was cancelled."""
        return self.is_over or time.monotonic() >= self._end

    def cancel(self) -> None:
        """End the download now."""
        self._close()

    def watch(self, sock: socket.socket) -> None:
        """Shut this connection down when the time is up."""
        # A second handle: TLS takes the first one away, and shutting down ends both.
        with self._lock:
            self._sockets.append(sock.dup())
            over = self.is_over
        if over:
            self._close()

    def _close(self, over: bool = True) -> None:
        with self._lock:
            self.is_over = self.is_over or over
            sockets, self._sockets = self._sockets, []
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class _Pinned:
    """Where a connection looks its address up: mixed into urllib3's two connection classes."""

    allow_hosts: tuple[str, ...] = ()
    deadline: Deadline

    def _new_conn(self) -> socket.socket:
        connection: Any = self
        host, port = connection.host.strip("[]").lower().rstrip("."), connection.port
        addresses = checked_addresses(
            host, port, allow_hosts=self.allow_hosts, timeout_s=min(self.deadline.left_s, _CONNECT_S)
        )
        failure: OSError | None = None
        for family, ip in addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(min(_CONNECT_S, self.deadline.left_s))
                sock.connect((ip, port))
                sock.settimeout(self.deadline.left_s)
                self.deadline.watch(sock)
            except OSError as exc:
                sock.close()
                failure = exc
                if self.deadline.has_passed:
                    break
            else:
                return sock
        raise NewConnectionError(connection, f"no connection: {failure}") from failure


class _CheckedAdapter(HTTPAdapter):
    """An adapter of requests whose connections are pinned."""

    def __init__(self, allow_hosts: tuple[str, ...], deadline: Deadline) -> None:
        values = {"allow_hosts": allow_hosts, "deadline": deadline}
        http = type("PinnedHTTPConnection", (_Pinned, HTTPConnection), values)
        https = type("PinnedHTTPSConnection", (_Pinned, HTTPSConnection), values)
        self._pools: dict[str, Any] = {
            "http": type("PinnedHTTPPool", (HTTPConnectionPool,), {"ConnectionCls": http}),
            "https": type("PinnedHTTPSPool", (HTTPSConnectionPool,), {"ConnectionCls": https}),
        }
        super().__init__(max_retries=0, pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        """Make the pool manager of requests with our pools in it."""
        self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools


def new_session(allow_hosts: tuple[str, ...], deadline: Deadline, *, use_proxies: bool) -> requests.Session:
    """A session of requests that takes nothing from the environment: no proxy, no netrc, no cookies.

    Args:
        allow_hosts: hosts that may have a private address.
        deadline: when everything ends.
        use_proxies: ordinary connections, for going through a proxy that cannot be pinned.
    """
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(_NoCookies())
    if not use_proxies:
        adapter = _CheckedAdapter(allow_hosts, deadline)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
    return session


class _NoCookies(DefaultCookiePolicy):
    """Neither keeps nor sends cookies."""

    def set_ok(self, cookie: Any, request: Any) -> bool:
        return False

    def return_ok(self, cookie: Any, request: Any) -> bool:
        return False


def our_error(exc: BaseException) -> VLMError | None:
    """The error of ours inside one of requests or urllib3, if there is one."""
    seen: set[int] = set()
    todo: list[object] = [exc]
    while todo:
        item = todo.pop()
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        if isinstance(item, VLMError):
            return item
        seen.add(id(item))
        todo += [item.__cause__, item.__context__, getattr(item, "reason", None)]
        todo += item.args
    return None
