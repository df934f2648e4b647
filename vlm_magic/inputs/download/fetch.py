"""From a URL to the bytes of a picture, under limits: total time, bytes, redirects, addresses.

Every hop's address is checked before anything is connected to, and the connection goes to the address
that was checked (`addresses`, `connections`). Nothing is taken from the environment: no proxy unless asked
for, no netrc, no cookies; a password in the URL goes to that host alone and into no message. Fresh
downloads come from `disk_cache`. Knows nothing of decoding; only the first bytes are looked
at, to stop early when they begin no picture.
"""

from __future__ import annotations

import os
import threading
import urllib.parse
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import (
    FetchError,
    FetchRefusedError,
    FetchStatusError,
    FetchTimeoutError,
    FetchTooLargeError,
    VLMError,
)
from vlm_magic.inputs.download import disk_cache
from vlm_magic.inputs.download.addresses import host_of, is_allowed, is_public
from vlm_magic.inputs.limits import FetchLimits
from vlm_magic.inputs.locate import safe_name
from vlm_magic.inputs.pixels.headers import format_of, holder_of, looks_like
from vlm_magic.wording import shorten

if TYPE_CHECKING:
    import requests

    from vlm_magic.inputs.download.connections import Deadline

__all__ = ["fetch_picture_bytes", "fetch_side_by_side"]

_CHUNK_BYTES = 1 << 16
_SNIFFED_BYTES = 64
_AT_ONCE = 8  # downloads side by side
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {
    "User-Agent": "vlm_magic (pictures for a notebook)",
    "Accept": "image/*,*/*;q=0.1",
    "Accept-Encoding": "identity",  # pictures are compressed already
}


def fetch_picture_bytes(
    url: str, *, limits: FetchLimits | None = None, deadline: Deadline | None = None
) -> bytes:
    """The bytes of the picture at ``url``.

    Args:
        url: http or https.
        limits: how far to go; None is the defaults.
        deadline: a clock that the caller can cancel from another thread; None makes one.

    Raises:
        FetchRefusedError: not http(s), or a private or local address that was not allowed.
        FetchTimeoutError: the total deadline passed.
        FetchTooLargeError: more bytes than allowed.
        FetchStatusError: the server answered with an error.
        FetchError: no connection, too many redirects, or no picture.
    """
    limits = limits or FetchLimits()
    key = _cache_key(url, limits)
    if key and (data := disk_cache.cached_bytes(key, limits)) is not None:
        return data
    from vlm_magic.inputs.download.connections import Deadline

    with deadline or Deadline(limits.deadline_s) as clock:
        try:
            data, seconds = _Download(url, limits, clock).run()
        except VLMError:
            if clock.has_passed:
                raise _too_late(url, limits) from None
            raise
        except Exception as exc:
            # The causes of requests quote the path with its query: a secret there stays out of tracebacks.
            has_secret = "?" in url or "@" in url
            raise _failure(url, exc, limits, clock) from (None if has_secret else exc)
    if key:
        disk_cache.keep(key, data, seconds, limits)
    return data


def fetch_side_by_side(
    urls: Sequence[str], *, limits: FetchLimits | None = None
) -> dict[str, bytes | Exception]:
    """Fetch several URLs at once, each once: its bytes, or the error that it gave.

    An interrupt closes every connection and is raised at once.
    """
    limits = limits or FetchLimits()
    from vlm_magic.inputs.download.connections import Deadline

    todo = list(dict.fromkeys(urls))
    results: dict[str, bytes | Exception] = {}
    running: set[Deadline] = set()
    lock = threading.Lock()
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            with lock:
                if not todo:
                    return
                url = todo.pop(0)
                clock = Deadline(limits.deadline_s)
                running.add(clock)
            try:
                results[url] = fetch_picture_bytes(url, limits=limits, deadline=clock)
            except Exception as exc:
                results[url] = exc
            with lock:
                running.discard(clock)

    workers = [
        threading.Thread(target=work, name="vlm_magic-fetch", daemon=True)
        for _ in range(min(_AT_ONCE, len(todo)))
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(0.1)
    except BaseException:
        stopped.set()
        with lock:
            clocks = list(running)
        for clock in clocks:
            clock.cancel()
        raise
    return results


class _Download:
    """One download: redirects one by one, then the body."""

    def __init__(self, url: str, limits: FetchLimits, clock: Deadline) -> None:
        self.url = url
        self.limits = limits
        self.clock = clock
        self.shown = safe_name(url)
        self.lifetime_s = float("inf")

    def run(self) -> tuple[bytes, float]:
        """The bytes, and the seconds that they may be used again."""
        url, auth = _split_credentials(self.url)
        origin = host_of(url)
        for _ in range(self.limits.max_redirects + 1):
            is_same_host = host_of(url) == origin
            response, session = self.ask(url, auth if is_same_host else None)
            with session, response:
                self.lifetime_s = min(self.lifetime_s, disk_cache.lifetime_s(response.headers))
                target = response.headers.get("Location", "")
                if response.status_code in _REDIRECTS and target:
                    url = self.redirected(url, target)
                    continue
                self.check_status(response)
                return self.body(response), self.lifetime_s
        raise FetchError(
            f"{self.shown} redirects more than {self.limits.max_redirects} times",
            have="a picture's address leads to it in a few steps",
            hint="the final address",
        )

    def ask(self, url: str, auth: tuple[str, str] | None) -> tuple[requests.Response, requests.Session]:
        """Send one request and read the headers of its answer."""
        from vlm_magic.inputs.download.connections import new_session

        self.check_time()
        _, host, port = host_of(url)
        proxies = self.proxies(url)
        if not is_allowed(host, port, self.limits.allow_hosts) and _is_address(host) and not is_public(host):
            raise _refused(host)
        session = new_session(self.limits.allow_hosts, self.clock, use_proxies=bool(proxies))
        try:
            response = session.get(
                url,
                headers=_HEADERS,
                auth=auth or _no_auth,
                stream=True,
                allow_redirects=False,
                timeout=self.clock.left_s,
                proxies=proxies,
                verify=os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True,
            )
        except BaseException:
            session.close()
            raise
        return response, session

    def proxies(self, url: str) -> dict[str, str]:
        """The proxies of the environment for this URL, when the person wants them."""
        if not self.limits.use_proxies:
            return {}
        from requests.utils import get_environ_proxies

        return dict(get_environ_proxies(url))

    def redirected(self, url: str, target: str) -> str:
        """Where a redirect leads; its own credentials are dropped.

        Raises:
            FetchRefusedError: to another scheme.
        """
        target = urllib.parse.urljoin(url, target.strip())
        scheme = urllib.parse.urlsplit(target).scheme.lower()
        if scheme not in ("http", "https"):
            raise FetchRefusedError(
                f"{self.shown} redirects to a {shorten(scheme, 20)}: address",
                have="only http and https are followed",
                hint="the final address, if it is on the web",
            )
        return _split_credentials(target)[0]

    def check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        reason = shorten(response.reason or "", 60)
        by_hand = "download it in a browser, and give its path"
        hints = {
            404: "the address in a browser: its spelling, or where it has moved",
            401: by_hand,
            403: by_hand,
        }
        told = "the page says no picture" if status < 400 else "the server has no such picture for us"
        told = "the server failed, or is busy" if status >= 500 or status == 429 else told
        raise FetchStatusError(
            f"{self.shown} answered {status} {reason}".rstrip(),
            have=told,
            hint=hints.get(status, f"again later, or {by_hand}"),
            status=status,
        )

    def check_time(self) -> None:
        if self.clock.has_passed:
            raise _too_late(self.url, self.limits)

    def body(self, response: requests.Response) -> bytes:
        """The body, decompressed and counted as it comes."""
        declared = response.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared[:15]) > self.limits.max_bytes:
            raise self.too_large()
        inflate = _inflater(response.headers.get("Content-Encoding", ""), self.shown)
        data = bytearray()
        sniffed = False
        while chunk := response.raw.read(_CHUNK_BYTES, decode_content=False):
            self.check_time()
            data += inflate(chunk, self.limits.max_bytes + 1 - len(data)) if inflate else chunk
            if len(data) > self.limits.max_bytes:
                raise self.too_large()
            if not sniffed and len(data) >= _SNIFFED_BYTES:
                self.check_picture(data, response)
                sniffed = True
        self.check_time()
        if not sniffed:
            self.check_picture(data, response)
        return bytes(data)

    def too_large(self) -> FetchTooLargeError:
        megabytes = self.limits.max_bytes / 1e6
        return FetchTooLargeError(
            f"{self.shown} is larger than {megabytes:g} MB",
            have="no more is downloaded",
            hint="download it, and give its path",
            max_bytes=self.limits.max_bytes,
        )

    def check_picture(self, data: bytes | bytearray, response: requests.Response) -> None:
        head = bytes(data[:_SNIFFED_BYTES])
        if format_of(head) is None and holder_of(head) is None:
            kind = shorten(response.headers.get("Content-Type", "no type"), 60)
            raise FetchError(
                f"{self.shown} is not a picture",
                have=f"the server sent {kind}; it looks like {looks_like(head)}",
                hint="the address of the picture itself, not of its page",
            )


def _inflater(encoding: str, shown: str) -> Any:
    """A function (chunk, most bytes) → bytes, or None where nothing is compressed."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError(
            f"{shown} is compressed as {shorten(encoding, 20)}",
            have="an uncompressed answer was asked for",
            hint="download it, and give its path",
        )
    return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress


def _no_auth(request: Any) -> Any:
    """Keep requests from looking for credentials."""
    return request


def _split_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without user and password, and these."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as exc:
        raise FetchRefusedError(
            "a URL that cannot be read", have=str(exc).split(":")[0], hint="check its spelling in a browser"
        ) from exc
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = userinfo.partition(":")
    bare = urllib.parse.urlunsplit(parts._replace(netloc=host))
    return bare, (urllib.parse.unquote(user), urllib.parse.unquote(password))


def _cache_key(url: str, limits: FetchLimits) -> str:
    """What a download is kept under; "" for one with credentials, which is not kept."""
    bare, auth = _split_credentials(url)
    _, host, port = host_of(bare)
    if auth is not None:
        return ""
    # What came from a private host while it was allowed is not given out when it is not.
    is_private = is_allowed(host, port, limits.allow_hosts)
    return f"{'allowed ' if is_private else ''}{urllib.parse.urldefrag(bare).url}"


def _is_address(host: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _refused(host: str) -> FetchRefusedError:
    return FetchRefusedError(
        f"{host} is not fetched from",
        have="it is a private, local or reserved address",
        hint=f'%config VLMMagics.allow_hosts = ["{host}"], or to_pil(…, allow_hosts=["{host}"])',
        host=host,
    )


def _too_late(url: str, limits: FetchLimits) -> FetchTimeoutError:
    return FetchTimeoutError(
        f"{safe_name(url)} took more than {limits.deadline_s:g} s",
        have="that is the time for all of it: name, connection, redirects and every byte",
        hint="again later, or download it and give its path",
        deadline_s=limits.deadline_s,
    )


def _failure(url: str, exc: Exception, limits: FetchLimits, clock: Deadline) -> VLMError:
    """The error of ours for whatever requests, urllib3 or the socket raised."""
    from vlm_magic.inputs.download.connections import our_error

    if clock.has_passed:
        return _too_late(url, limits)
    ours = our_error(exc)
    if ours is not None:
        return ours
    shown, kind = safe_name(url), type(exc).__name__
    if (isinstance(exc, ValueError) and "URL" in kind) or isinstance(exc, UnicodeError):
        return FetchRefusedError(
            f"{shown} cannot be read as a URL",
            have="http(s)://host/path",
            hint="check its spelling in a browser",
        )
    words = {
        "SSLError": "its certificate does not check out",
        "ConnectTimeout": "no answer",
        "ReadTimeout": "no answer",
        "ConnectionError": "no connection",
        "ProxyError": "the proxy does not answer",
        "ProtocolError": "the connection broke off",
        "IncompleteRead": "the connection broke off",
    }
    hint = "download it, and give its path"
    if not limits.use_proxies and any(
        os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "http_proxy")
    ):
        hint = "%config VLMMagics.use_proxies = True; proxies of the environment are used only then"
    return FetchError(f"{shown} cannot be fetched", have=words.get(kind, kind), hint=hint)
