"""Downloads under limits: total time, bytes, redirects, addresses, credentials, cache."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hostile_server
import pytest
from hostile_server import PICTURE, HostileServer

from vlm_magic.errors import (
    FetchError,
    FetchRefusedError,
    FetchStatusError,
    FetchTimeoutError,
    FetchTooLargeError,
    VLMError,
)
from vlm_magic.inputs.download import disk_cache
from vlm_magic.inputs.download.addresses import is_public
from vlm_magic.inputs.download.fetch import fetch_picture_bytes, fetch_side_by_side
from vlm_magic.inputs.limits import FetchLimits, PictureOptions
from vlm_magic.inputs.pictures import to_pil
from vlm_magic.inputs.prompt import parse_prompt, resolve_parts
from vlm_magic.messages import Picture


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with hostile_server.running() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(server: HostileServer) -> None:
    server.asked.clear()
    server.headers_seen.clear()
    server.most_at_once = 0


@pytest.fixture
def limits(tmp_path: Path) -> FetchLimits:
    return FetchLimits(deadline_s=0.8, allow_hosts=("127.0.0.1",), cache_dir=tmp_path / "cache")


def check_error(exc: VLMError) -> None:
    assert 8 <= len(str(exc)) <= 600, str(exc)
    assert len(str(exc).splitlines()) <= 3


# -- what comes through ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/good", "/plain", "/gzipped", "/chunked", "/hops/5", "/relative", "/cookie", "/good?token=secret"],
)
def test_a_picture_comes_through(path: str, server: HostileServer, limits: FetchLimits) -> None:
    assert fetch_picture_bytes(server.url(path), limits=limits) == PICTURE


def test_to_pil_fetches_from_a_host_that_is_allowed(server: HostileServer) -> None:
    assert to_pil(server.url("/good"), allow_hosts=["127.0.0.1"]).size == (40, 24)
    with pytest.raises(FetchRefusedError):
        to_pil(server.url("/good?other"))


# -- what does not -----------------------------------------------------------------------------

FAILURES: dict[str, type[VLMError]] = {
    "/status/404": FetchStatusError,
    "/status/401": FetchStatusError,
    "/status/500": FetchStatusError,
    "/status/204": FetchStatusError,
    "/missing": FetchStatusError,
    "/html": FetchError,
    "/lie": FetchError,
    "/svg": FetchError,
    "/empty": FetchError,
    "/nothing": FetchError,
    "/garbage": FetchError,
    "/declared": FetchTooLargeError,
    "/cut": FetchError,
    "/drip": FetchTimeoutError,
    "/dripheader": FetchTimeoutError,
    "/dripstatus": FetchTimeoutError,
    "/continue": FetchTimeoutError,
    "/hang": FetchTimeoutError,
    "/endless": FetchTooLargeError,
    "/endlessheader": FetchError,
    "/endlesschunk": FetchError,
    "/bomb": FetchTooLargeError,
    "/brotli": FetchError,
    "/badgzip": FetchError,
    "/loop": FetchError,
    "/hops/6": FetchError,
    "/nowhere": FetchStatusError,
    "/to/file:/etc/passwd": FetchRefusedError,
    "/to/ftp:/example.org/a.png": FetchRefusedError,
    "/to/data:image/png,x": FetchRefusedError,
    "/to/javascript:alert(1)": FetchRefusedError,
    "/to/http:/169.254.169.254/latest/meta-data": FetchRefusedError,
    "/to/http:/10.0.0.1/a.png": FetchRefusedError,
    "/to/http:/192.168.1.1/a.png": FetchRefusedError,
    "/to/http:/[::1]/a.png": FetchRefusedError,
    "/to/http:/localhost/a.png": FetchRefusedError,
    "/to/http:/127.0.0.2/a.png": FetchRefusedError,
    "/to/http:/0x7f000002/a.png": FetchRefusedError,
    "/to/http:/0/a.png": FetchRefusedError,
}


@pytest.mark.parametrize("path", list(FAILURES))
def test_every_kind_of_trouble_is_a_clear_error_in_time(
    path: str, server: HostileServer, limits: FetchLimits
) -> None:
    begun = time.monotonic()
    with pytest.raises(VLMError) as caught:
        fetch_picture_bytes(server.url(path), limits=limits)
    assert time.monotonic() - begun < limits.deadline_s + 0.7
    assert type(caught.value) is FAILURES[path], str(caught.value)
    check_error(caught.value)


def test_a_huge_picture_of_a_server_is_refused_from_its_header(
    server: HostileServer, limits: FetchLimits
) -> None:
    with pytest.raises(VLMError, match="900 megapixels"):
        to_pil(server.url("/huge"), options=PictureOptions(fetch=limits))


def test_a_port_that_nobody_listens_on_is_a_clear_error(limits: FetchLimits) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(FetchError, match="no connection"):
        fetch_picture_bytes(f"http://127.0.0.1:{port}/a.png", limits=limits)


def test_the_deadline_is_for_all_hops_together(server: HostileServer, limits: FetchLimits) -> None:
    begun = time.monotonic()
    with pytest.raises(FetchTimeoutError):
        fetch_picture_bytes(server.url("/to/" + server.url("/drip").replace("://", ":/")), limits=limits)
    assert time.monotonic() - begun < limits.deadline_s + 0.7


_MEMORY_SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:]
import hostile_server
from vlm_magic.errors import VLMError
from vlm_magic.inputs.download.fetch import fetch_picture_bytes
from vlm_magic.inputs.limits import FetchLimits

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1000

url = sys.stdin.readline().strip()
limits = FetchLimits(deadline_s=1, allow_hosts=("127.0.0.1",), cache_bytes=0)
fetch_picture_bytes(url + "/good", limits=limits)
before = status("VmHWM")
for path in ("/bomb", "/endless", "/endlessheader", "/endlesschunk", "/continue", "/declared"):
    try:
        fetch_picture_bytes(url + path, limits=limits)
    except VLMError:
        pass
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_server_costs_more_than_a_hundred_megabytes(server: HostileServer) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", _MEMORY_SCRIPT, str(here.parent), str(here / "support")]
    done = subprocess.run(
        command, input=server.url(""), capture_output=True, text=True, check=True, timeout=60
    )
    print(f"\npeak +{float(done.stdout):.0f} MB")
    assert float(done.stdout) < 100


# -- addresses ---------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "0.1.2.3",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "::8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "2001::1",
    "2001:db8::1",
    "100::1",
    "3fff::1",
    "5f00::1",
    "not an address",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_told(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"])
def test_a_public_address_is_told(address: str) -> None:
    assert is_public(address)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every address that anything connects to; nothing is let through."""
    connected: list[object] = []

    def connect(self: socket.socket, address: object) -> None:
        connected.append(address)
        raise OSError("a spy in a test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    return connected


URLS = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://0/",
    "http://localhost/",
    "http://localhost./",
    "http://LOCALHOST:8080/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://169.254.169.254/latest/",
    "http://user:pw@10.0.0.1/",
    "http://[fe80::1]/",
    "https://192.168.1.1:8443/",
    "http://①②⑦.⓪.⓪.①/",
]


@pytest.mark.parametrize("url", URLS)
def test_a_private_address_is_refused_without_connecting(url: str, spy: list[object]) -> None:
    with pytest.raises(FetchRefusedError) as caught:
        fetch_picture_bytes(url + "a.png")
    check_error(caught.value)
    assert "pw" not in str(caught.value)
    assert spy == []


@pytest.mark.parametrize("address", PRIVATE[:-1])
def test_a_name_with_a_private_address_is_refused_without_connecting(
    address: str, spy: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, [address])
    with pytest.raises(FetchRefusedError):
        fetch_picture_bytes("http://innocent.example/a.png")
    assert spy == []


def answer_with(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """A resolver that gives each answer in turn, the last one for ever."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *args: object, **kwargs: object) -> list[tuple[object, ...]]:
        addresses = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_the_connection_goes_to_the_address_that_was_checked(
    spy: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer_with(monkeypatch, ["203.0.114.7"], ["127.0.0.1"])  # a name that changes its mind
    with pytest.raises(FetchError):
        fetch_picture_bytes("http://rebinding.example/a.png")
    assert asked == ["rebinding.example"]
    assert spy == [("203.0.114.7", 80)]


def test_of_mixed_addresses_only_the_public_one_is_connected_to(
    spy: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, ["10.0.0.1", "203.0.114.7", "::1"])
    with pytest.raises(FetchError):
        fetch_picture_bytes("http://mixed.example/a.png")
    assert spy == [("203.0.114.7", 80)]


def test_the_host_name_is_kept_for_the_server(
    server: HostileServer, limits: FetchLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, ["127.0.0.1"])
    allowed = replace(limits, allow_hosts=("pictures.example",))
    assert (
        fetch_picture_bytes(f"http://pictures.example:{server.server_port}/good", limits=allowed) == PICTURE
    )
    assert server.headers_seen[0]["Host"] == f"pictures.example:{server.server_port}"


def test_a_certificate_is_checked_for_the_name_and_not_for_the_address(
    limits: FetchLimits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = hostile_server.make_certificate("pictures.example", tmp_path)
    if certificate is None:
        pytest.skip("no openssl here")
    answer_with(monkeypatch, ["127.0.0.1"])
    allowed = replace(limits, allow_hosts=("pictures.example", "other.example"))
    with hostile_server.running(certificate) as server:
        url = f"https://pictures.example:{server.server_port}/good"
        with pytest.raises(FetchError, match="certificate"):
            fetch_picture_bytes(url, limits=allowed)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", f"{certificate}.crt")
        assert fetch_picture_bytes(url, limits=allowed) == PICTURE
        with pytest.raises(FetchError, match="certificate"):
            fetch_picture_bytes(url.replace("pictures.example", "other.example"), limits=allowed)


def test_a_host_may_be_allowed_with_its_port(server: HostileServer, limits: FetchLimits) -> None:
    port = server.server_port
    right, wrong = (replace(limits, allow_hosts=(f"127.0.0.1:{n}",)) for n in (port, port + 1))
    assert fetch_picture_bytes(server.url("/good"), limits=right) == PICTURE
    with pytest.raises(FetchRefusedError):
        fetch_picture_bytes(server.url("/good"), limits=wrong)


def test_a_slow_resolver_does_not_pass_the_deadline(
    limits: FetchLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: done.wait(20) and [])
    begun = time.monotonic()
    with pytest.raises(FetchTimeoutError):
        fetch_picture_bytes("http://slow.example/a.png", limits=limits)
    assert time.monotonic() - begun < 10
    done.set()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://h/a",
        "http://",
        "http:///a.png",
        "//h/a.png",
        "http://[bad/a",
        "http://h:99999/a",
        "http://a b/c",
        "http://\x00/",
    ],
)
def test_what_is_no_web_address_is_refused(url: str, spy: list[object]) -> None:
    with pytest.raises(FetchError) as caught:
        fetch_picture_bytes(url)
    check_error(caught.value)
    assert spy == []


# -- secrets -----------------------------------------------------------------------------------


def test_nothing_is_taken_from_the_environment(
    server: HostileServer, limits: FetchLimits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hush\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://10.0.0.1:3128")
    assert fetch_picture_bytes(server.url("/good"), limits=limits) == PICTURE
    assert "Authorization" not in server.headers_seen[0]


def test_a_proxy_is_used_when_it_is_asked_for(
    server: HostileServer, limits: FetchLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url(""))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FetchStatusError):
        fetch_picture_bytes("http://pictures.example/good", limits=replace(limits, use_proxies=True))
    assert server.asked == ["http://pictures.example/good"]


def test_a_password_goes_to_its_host_alone_and_into_no_message(
    server: HostileServer, limits: FetchLimits
) -> None:
    with hostile_server.running() as other:
        target = other.url("/status/403").replace("://", ":/")
        url = server.url(f"/to/{target}").replace("://", "://ada:hunter2@")
        with pytest.raises(FetchStatusError) as caught:
            fetch_picture_bytes(url + "?token=hush", limits=limits)
        assert server.headers_seen[0]["Authorization"].startswith("Basic ")
        assert "Authorization" not in other.headers_seen[0]
    shown = str(caught.value) + repr(vars(caught.value))
    assert "hunter2" not in shown
    assert "hush" not in shown


def test_a_secret_of_a_query_is_in_no_traceback(limits: FetchLimits) -> None:
    import traceback

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/a.png?token=" + "hush"
    with pytest.raises(FetchError) as caught:
        fetch_picture_bytes(url, limits=limits)
    lines = traceback.format_exception(type(caught.value), caught.value, None)
    assert "hush" not in "".join(lines)


def test_no_cookie_is_sent_back(server: HostileServer, limits: FetchLimits) -> None:
    fetch_picture_bytes(server.url("/cookie"), limits=limits)
    assert server.asked == ["/cookie", "/good"]
    assert all("Cookie" not in headers for headers in server.headers_seen)


# -- the cache ---------------------------------------------------------------------------------


def test_a_fresh_picture_is_fetched_once(server: HostileServer, limits: FetchLimits) -> None:
    for path in ("/good", "/maxage/60", "/hops/2"):
        server.asked.clear()
        first = fetch_picture_bytes(server.url(path), limits=limits)
        n_asked = len(server.asked)
        assert fetch_picture_bytes(server.url(path), limits=limits) == first
        assert len(server.asked) == n_asked


@pytest.mark.parametrize("path", ["/nostore", "/maxage/0"])
def test_what_must_not_be_stored_is_not(path: str, server: HostileServer, limits: FetchLimits) -> None:
    fetch_picture_bytes(server.url(path), limits=limits)
    fetch_picture_bytes(server.url(path), limits=limits)
    assert len(server.asked) == 2
    assert not list((limits.cache_dir or Path()).rglob("*.json"))


def test_a_picture_with_a_password_is_not_stored(server: HostileServer, limits: FetchLimits) -> None:
    fetch_picture_bytes(server.url("/good").replace("://", "://a:b@"), limits=limits)
    assert not list((limits.cache_dir or Path()).rglob("*.json"))


def test_no_address_is_written_in_clear(server: HostileServer, limits: FetchLimits) -> None:
    fetch_picture_bytes(server.url("/good?token=hush"), limits=limits)
    files = [path for path in (limits.cache_dir or Path()).rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(b"hush" not in path.read_bytes() and "hush" not in path.name for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_a_damaged_cache_is_fetched_again(server: HostileServer, limits: FetchLimits) -> None:
    url = server.url("/good")
    fetch_picture_bytes(url, limits=limits)
    for path in list((limits.cache_dir or Path()).rglob("*")):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-3])
    assert fetch_picture_bytes(url, limits=limits) == PICTURE
    assert len(server.asked) == 2


def test_a_picture_that_was_changed_on_disk_is_fetched_again(
    server: HostileServer, limits: FetchLimits
) -> None:
    """Of the same length, and still a picture: only its content tells."""
    url = server.url("/good")
    fetch_picture_bytes(url, limits=limits)
    (kept,) = ((limits.cache_dir or Path()) / "pictures").iterdir()
    data = bytearray(kept.read_bytes())
    data[-20] ^= 1
    kept.write_bytes(data)
    assert fetch_picture_bytes(url, limits=limits) == PICTURE
    assert len(server.asked) == 2


def test_the_cache_keeps_within_its_bound_and_the_newest(tmp_path: Path) -> None:
    limits = FetchLimits(cache_dir=tmp_path, cache_bytes=2600)  # two pictures, five addresses
    for n in range(5):
        disk_cache.keep(f"http://h/{n}", bytes([n]) * 1000, 60, limits)
        for path in (tmp_path / "pictures").iterdir():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
    kept = [n for n in range(5) if disk_cache.cached_bytes(f"http://h/{n}", limits)]
    assert kept == [3, 4]


def test_several_kernels_may_write_the_same_picture_at_once(tmp_path: Path) -> None:
    limits = FetchLimits(cache_dir=tmp_path, cache_bytes=50_000)
    wrong = []

    def work() -> None:
        for n in range(60):
            disk_cache.keep(f"http://h/{n % 5}", bytes([n % 5]) * 9000, 60, limits)
            found = disk_cache.cached_bytes(f"http://h/{n % 5}", limits)
            if found not in (None, bytes([n % 5]) * 9000):
                wrong.append(n)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert not list(tmp_path.rglob(".part-*"))


def test_a_folder_that_cannot_be_written_only_costs_the_cache(
    server: HostileServer, limits: FetchLimits, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert fetch_picture_bytes(server.url("/good"), limits=replace(limits, cache_dir=blocked)) == PICTURE


def test_forgetting_empties_the_cache_and_says_how_much(server: HostileServer, limits: FetchLimits) -> None:
    fetch_picture_bytes(server.url("/good"), limits=limits)
    assert disk_cache.forget_downloads(limits) >= len(PICTURE)
    assert disk_cache.forget_downloads(limits) == 0
    fetch_picture_bytes(server.url("/good"), limits=limits)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 24 * 3600),
        ({"Cache-Control": "no-store"}, 0),
        ({"Cache-Control": "no-cache"}, 0),
        ({"Cache-Control": "max-age=60"}, 60),
        ({"Cache-Control": "max-age=60", "Age": "50"}, 10),
        ({"Cache-Control": "public, MAX-AGE=99999999999"}, 7 * 24 * 3600),
        ({"Cache-Control": "max-age=60, no-store"}, 0),
        ({"Expires": "0"}, 0),
        ({"Expires": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"Vary": "*"}, 0),
        ({"Pragma": "no-cache"}, 0),
    ],
)
def test_the_server_says_how_long_a_picture_is_fresh(headers: dict[str, str], seconds: float) -> None:
    assert disk_cache.lifetime_s(headers) == seconds


# -- several at once ---------------------------------------------------------------------------


def test_the_urls_of_one_prompt_are_fetched_side_by_side_and_each_once(
    limits: FetchLimits,
) -> None:
    colours = ["red", "green", "blue", "red"]
    with hostile_server.running() as server:
        text = " ".join(f"![{name}]({server.url(f'/colour/{name}')})" for name in colours)
        parts = resolve_parts(parse_prompt(text), {}, options=PictureOptions(fetch=limits))
    assert [part.name for part in parts if isinstance(part, Picture)] == colours
    assert len(server.asked) == 3
    assert server.most_at_once == 3


def test_variables_that_hold_urls_are_fetched_side_by_side_under_the_same_limits(limits: FetchLimits) -> None:
    options = PictureOptions(fetch=limits)
    with hostile_server.running() as server:
        urls = [server.url(f"/colour/{name}") for name in ("red", "green", "red")]
        names = {"urls": urls, "url": urls[1], "page": server.url("/status/404")}
        parts = resolve_parts(parse_prompt("{urls} and {url}"), names, options=options)
        assert [part.name for part in parts if isinstance(part, Picture)] == [
            "urls[0]",
            "urls[1]",
            "urls[2]",
            "url",
        ]
        assert len(server.asked) == server.most_at_once == 2
        with pytest.raises(FetchStatusError, match="404") as caught:
            resolve_parts(parse_prompt("{page}"), names, options=options)
        assert caught.value.hint.startswith("{page!s} for the text itself")
        for text in ("{page!s}", "{text}"):
            n_asked = len(server.asked)
            resolve_parts(parse_prompt(text), {**names, "text": f"see {urls[0]}"}, options=options)
            assert len(server.asked) == n_asked
        with pytest.raises(FetchRefusedError, match=r"127\.0\.0\.1"):
            resolve_parts(parse_prompt("{url}"), names)


def test_pictures_made_from_urls_are_fetched_side_by_side_too(limits: FetchLimits) -> None:
    with hostile_server.running() as server:
        names = {name: Picture(server.url(f"/colour/{name}")) for name in ("red", "blue")}
        parts = resolve_parts(parse_prompt("{red}{blue}"), names, options=PictureOptions(fetch=limits))
    assert [part.name for part in parts if isinstance(part, Picture)] == ["red", "blue"]
    assert server.most_at_once == 2


def test_one_bad_url_of_several_is_the_error_and_the_others_are_no_hindrance(
    server: HostileServer, limits: FetchLimits
) -> None:
    results = fetch_side_by_side(
        [server.url("/good"), server.url("/drip"), server.url("/status/404")], limits=limits
    )
    assert [type(result) for result in results.values()].count(bytes) == 1
    text = f"one\n![]({server.url('/status/404')}) ![]({server.url('/good')})"
    with pytest.raises(FetchStatusError, match="line 2 of the cell"):
        resolve_parts(parse_prompt(text), {}, options=PictureOptions(fetch=limits))


def test_an_interrupt_ends_all_downloads_at_once(server: HostileServer, limits: FetchLimits) -> None:
    import _thread

    threading.Timer(0.3, _thread.interrupt_main).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch_side_by_side(
            [server.url("/drip?1"), server.url("/hang?2")], limits=replace(limits, deadline_s=30)
        )
    assert time.monotonic() - begun < 10
    time.sleep(0.2)
    assert not [thread for thread in threading.enumerate() if thread.name == "vlm_magic-fetch"]


def test_downloads_leave_no_thread_and_no_open_connection(server: HostileServer, limits: FetchLimits) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    fetch_picture_bytes(server.url("/good?warm"), limits=limits)
    time.sleep(0.1)
    before, threads = count(), set(threading.enumerate())  # other tests' models may have workers
    for n in range(5):
        fetch_picture_bytes(server.url(f"/good?{n}"), limits=limits)
        with pytest.raises(VLMError):
            fetch_picture_bytes(server.url("/cut"), limits=limits)
    time.sleep(0.3)
    assert count() <= before + 2
    left = set(threading.enumerate()) - threads
    assert not [thread for thread in left if thread.name.startswith("vlm_magic")]
