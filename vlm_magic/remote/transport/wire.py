"""Requests to one server: a pool of connections, retries, streams that can be cut at once.

No redirect is followed, no cookie kept. A request's `Line` holds its socket: shutting that down ends a read
that waits, from any thread, and the server sees it and ends its work. Knows HTTP; nothing of models.
Neighbours: `address` says where to, `complaints` makes errors of what servers say, `sse` reads streams.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias

import requests
from requests.adapters import HTTPAdapter
from requests.utils import default_headers, get_environ_proxies
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from vlm_magic.errors import VLMError
from vlm_magic.remote.transport.address import Address
from vlm_magic.remote.transport.complaints import complaint, unreachable

__all__ = ["CutOff", "CutReason", "Line", "Wire"]

CutReason: TypeAlias = Literal["interrupted", "time", "stop"]

_CONNECT_S = 10.0
_END_S = 0.5
_BUSY = (429, 502, 503, 504, 529)  # statuses that ask to come again
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # between tries, where the server names no time
_LONGEST_PAUSE_S = 60.0
_MOST_BYTES = 64 * 2**20  # of an answer that is no stream


class CutOff(Exception):  # noqa: N818 - no failure
    """A request was ended from this side: by a stop, a time limit, or because enough was said."""


class Line:
    """One request under way, as its caller holds it: `cut` ends it from any thread.

    Attributes:
        cut_by: why it was ended from this side; None while it was not.
    """

    def __init__(self) -> None:
        self.cut_by: CutReason | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._is_cut = threading.Event()

    def cut(self, reason: CutReason) -> None:
        """Shut the socket down; a read that waits ends at once. The first reason stands."""
        with self._lock:
            self.cut_by = self.cut_by or reason
            self._is_cut.set()
            if self._socket is not None:
                _shut(self._socket)

    def took(self, connection: socket.socket) -> None:
        """This request goes over ``connection``."""
        with self._lock:
            self._socket = connection
            if self.cut_by is not None:
                _shut(connection)

    def expect_the_end(self) -> None:
        """All was said: the rest of the transfer comes at once, or the connection is not worth keeping."""
        with self._lock:
            if self._socket is not None:
                self._socket.settimeout(_END_S)

    def pause(self, seconds: float) -> None:
        """Wait before another try.

        Raises:
            CutOff: it was cut meanwhile.
        """
        if self._is_cut.wait(seconds):
            raise CutOff

    @contextlib.contextmanager
    def ends_after(self, seconds: float | None) -> Iterator[None]:
        """Cut it when the time is up."""
        if seconds is None:
            yield
            return
        timer = threading.Timer(seconds, self.cut, ("time",))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class Wire:
    """Requests to one server, from any number of threads.

    Args:
        address: where to.
        timeout_s: the longest silence of the server, between bytes.
        n_connections: how many are kept open.
    """

    def __init__(self, address: Address, timeout_s: float, n_connections: int) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._adapter = _Adapter(pool_connections=1, pool_maxsize=n_connections)
        self._blanks: dict[tuple[str, str], requests.PreparedRequest] = {}  # by method and URL
        self._n_tries = 1 + len(_PAUSES_S)

    @contextlib.contextmanager
    def trying_once(self) -> Iterator[None]:
        """Requests within are not repeated: whoever connects wants to know at once."""
        self._n_tries, before = 1, self._n_tries
        try:
            yield
        finally:
            self._n_tries = before

    def get(self, path: str, line: Line | None = None) -> Any:
        """What a path answers, as JSON values; see `post`."""
        return self._whole("GET", path, None, line or Line())

    def post(self, path: str, body: Mapping[str, Any], line: Line | None = None) -> Any:
        """What the server answers to ``body``, as JSON values.

        Raises:
            EngineGoneError: the server cannot be reached.
            ModelError: it said no, in one of our errors.
            CutOff: ``line`` was cut.
        """
        return self._whole("POST", path, body, line or Line())

    def stream(self, path: str, body: Mapping[str, Any], line: Line) -> Generator[bytes, None, None]:
        """The bytes of the answer as they come; errors are those of `post`.

        A server that ends in the middle ends the iterator: whoever reads it knows what a whole answer is.
        """
        with self._translated(line), contextlib.closing(self._sent("POST", path, body, line)) as response:
            yield from response.raw.stream(65536, decode_content=True)

    def close(self) -> None:
        """Close what is open and unused."""
        self._adapter.close()

    def _whole(self, method: str, path: str, body: Mapping[str, Any] | None, line: Line) -> Any:
        with self._translated(line), contextlib.closing(self._sent(method, path, body, line)) as response:
            read = response.raw.read(_MOST_BYTES, decode_content=True)
        try:
            return json.loads(read)
        except ValueError as error:
            raise complaint(self.address, response.status_code, read.decode("utf-8", "replace")) from error

    def _sent(self, method: str, path: str, body: Mapping[str, Any] | None, line: Line) -> requests.Response:
        """The response to a request that was taken; asks again where the server is busy."""
        url = path if path.startswith("http") else f"{self.address.base}{path}"
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        n = was_stale = 0
        while True:
            is_last = n >= self._n_tries - 1
            pause_s = _PAUSES_S[min(n, len(_PAUSES_S) - 1)]
            try:
                response = self._once(method, url, data, line)
            except (requests.ConnectionError, HTTPError) as error:
                if line.cut_by is not None:
                    raise CutOff from error
                if not was_stale and _was_closed(error):  # a kept connection that the server had let go
                    was_stale = 1
                    continue
                if is_last or not _is_passing(error):
                    raise unreachable(self.address, error) from error
                line.pause(pause_s)
                n += 1
                continue
            if response.status_code < 300:
                return response
            with contextlib.closing(response):
                text = response.raw.read(65536, decode_content=True).decode("utf-8", "replace")
            if response.status_code in _BUSY and not is_last:
                line.pause(_pause_s(response.headers.get("Retry-After"), pause_s))
                n += 1
                continue
            raise complaint(
                self.address, response.status_code, text, location=response.headers.get("Location", "")
            )

    def _once(self, method: str, url: str, data: bytes | None, line: Line) -> requests.Response:
        """The response of one try, its body unread.

        It goes past `requests.Session`, whose cookies, redirects and ~/.netrc are not wanted, and whose
        merging of settings would take a fifth of what a row of a map costs here.
        """
        request = self._request(method, url, data)
        # A proxy has no business between this machine and itself.
        proxies = {} if self.address.is_local else get_environ_proxies(url)
        _now.line = line
        try:
            return self._adapter.send(
                request,
                stream=True,
                timeout=(_CONNECT_S, self._timeout_s),
                verify=_certificates(),
                proxies=proxies,
            )
        finally:
            _now.line = None

    def _request(self, method: str, url: str, data: bytes | None) -> requests.PreparedRequest:
        """A request with the key as the environment has it now."""
        blank = self._blanks.get((method, url))
        if blank is None:
            blank = requests.PreparedRequest()
            headers = {"Accept": "text/event-stream, application/json", "User-Agent": "vlm_magic"}
            blank.prepare(method, url, headers={**default_headers(), **headers})
            self._blanks[method, url] = blank
        request = blank.copy()
        if data is not None:
            request.body = data
            request.headers["Content-Type"] = "application/json"
            request.headers["Content-Length"] = str(len(data))
        key = self.address.key()
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    @contextlib.contextmanager
    def _translated(self, line: Line) -> Iterator[None]:
        """What a connection fails with while it is read, as one of our errors."""
        try:
            yield
        except (VLMError, CutOff):
            raise
        except (requests.RequestException, HTTPError, OSError) as error:
            if line.cut_by is not None:
                raise CutOff from error
            raise unreachable(self.address, error) from error


def _certificates() -> str | bool:
    """A private authority by the usual variables; else the public ones. TLS is always verified."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if os.environ.get(name):
            return os.environ[name]
    return True


def _pause_s(retry_after: str | None, otherwise_s: float) -> float:
    """What ``Retry-After`` says, in seconds or as a date."""
    if not retry_after:
        return otherwise_s
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError):
            return otherwise_s
    return min(max(seconds, 0.0), _LONGEST_PAUSE_S)


def _was_closed(error: Exception) -> bool:
    """Whether the server closed the connection before it answered anything."""
    return any(word in str(error) for word in ("RemoteDisconnected", "ConnectionResetError", "BrokenPipe"))


def _is_passing(error: Exception) -> bool:
    """Whether another try may do: after a connection that was refused or broke, not after a silence."""
    if isinstance(error, (requests.exceptions.SSLError, requests.Timeout)):
        return False
    return "NameResolution" not in repr(error) and "Failed to resolve" not in str(error)


# ---- the socket of a request ------------------------------------------------------------------------------


class _Now(threading.local):
    """The line of the request that this thread is making."""

    line: Line | None = None


_now = _Now()


def _tell(connection: HTTPConnection) -> None:
    if connection.sock is None:
        connection.connect()
    if _now.line is not None and connection.sock is not None:
        _now.line.took(connection.sock)


class _Connection(HTTPConnection):
    def request(self, *args: Any, **options: Any) -> None:
        """Send a request, after telling who makes it which socket it goes over."""
        _tell(self)
        super().request(*args, **options)


class _SecureConnection(HTTPSConnection):
    def request(self, *args: Any, **options: Any) -> None:
        """Send a request, after telling who makes it which socket it goes over."""
        _tell(self)
        super().request(*args, **options)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Pools whose connections tell their socket."""
        super().init_poolmanager(*args, **options)
        pools: dict[str, Callable[..., Any]] = {"http": _Pool, "https": _SecurePool}
        self.poolmanager.pool_classes_by_scheme = pools
