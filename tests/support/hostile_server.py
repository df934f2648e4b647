"""An HTTP server on 127.0.0.1 that misbehaves on request, one path per kind of trouble."""

from __future__ import annotations

import contextlib
import functools
import gzip
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import picture_corpus as corpus
from PIL import Image

PICTURE = corpus.encoded(corpus.scene(), "PNG")


@functools.cache
def _bomb() -> bytes:
    """A picture and 200 MB of zeros in a few hundred kilobytes."""
    return gzip.compress(PICTURE + bytes(200_000_000), 6)


class HostileServer(ThreadingHTTPServer):
    """Counts what it is asked; `url` makes the address of a path."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        _bomb()  # made before anybody waits for it
        self.asked: list[str] = []
        self.headers_seen: list[dict[str, str]] = []
        self.stopping = threading.Event()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are the point here."""


class _Handler(BaseHTTPRequestHandler):
    server: HostileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.headers_seen.append(dict(self.headers))
        self.close_connection = True
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            with contextlib.suppress(OSError):
                self.answer(self.path.partition("?")[0].strip("/").split("/"))
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def answer(self, path: list[str]) -> None:
        kind, rest = path[0], path[1:]
        method = getattr(self, f"answer_{kind.partition('.')[0]}", None)
        if method is None:
            self.reply(404, b"nothing here")
        else:
            method(*rest)

    def reply(self, status: int, body: bytes = b"", kind: str = "image/png", **headers: str) -> None:
        self.send_response(status)
        named = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
        for name, value in {**named, **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self, *_: str) -> None:
        self.reply(200, PICTURE)

    def answer_slow(self, *_: str) -> None:
        time.sleep(0.3)
        self.reply(200, PICTURE)

    def answer_plain(self, *_: str) -> None:
        self.reply(200, PICTURE, "text/plain")

    def answer_gzipped(self) -> None:
        self.reply(200, gzip.compress(PICTURE), Content_Encoding="gzip")

    def answer_chunked(self) -> None:
        self.reply(200, b"", Transfer_Encoding="chunked", Content_Length="")
        for start in range(0, len(PICTURE), 50):
            part = PICTURE[start : start + 50]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def answer_status(self, status: str) -> None:
        self.reply(int(status), b"<html>no</html>", "text/html")

    def answer_html(self) -> None:
        self.reply(200, b"<!DOCTYPE html><html>" + b"x" * 1000, "text/html")

    def answer_lie(self) -> None:
        self.reply(200, b"<!DOCTYPE html><html>" + b"x" * 1000, "image/png")

    def answer_svg(self) -> None:
        self.reply(200, b"<svg xmlns='http://www.w3.org/2000/svg'></svg>" * 3, "image/svg+xml")

    def answer_empty(self) -> None:
        self.reply(200, b"")

    def answer_nothing(self) -> None:
        self.connection.close()

    def answer_garbage(self) -> None:
        self.wfile.write(b"\0\1\2 not HTTP at all\r\n\r\n" * 10)

    def answer_huge(self) -> None:
        self.reply(200, corpus.png(30_000, 30_000))

    def answer_declared(self) -> None:
        self.reply(200, PICTURE, Content_Length="99999999999")

    def answer_cut(self) -> None:
        self.reply(200, PICTURE[:100], Content_Length=str(len(PICTURE)))

    def answer_drip(self) -> None:
        self.reply(200, PICTURE[:8], Content_Length="")
        self.drip(b"x")

    def answer_dripheader(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.drip(b"X-A: b\r\n")

    def answer_dripstatus(self) -> None:
        self.drip(b"H")

    def answer_continue(self) -> None:
        while not self.server.stopping.is_set():
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    def answer_hang(self) -> None:
        self.server.stopping.wait(60)

    def drip(self, piece: bytes) -> None:
        while not self.server.stopping.wait(0.05):
            self.wfile.write(piece)
            self.wfile.flush()

    def answer_endless(self) -> None:
        self.reply(200, PICTURE, Content_Length="")
        while not self.server.stopping.is_set():
            self.wfile.write(bytes(1 << 16))

    def answer_endlessheader(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.stopping.is_set():
            self.wfile.write(b"X-A: " + b"b" * 1000 + b"\r\n")

    def answer_endlesschunk(self) -> None:
        self.reply(200, b"", Transfer_Encoding="chunked", Content_Length="")
        while not self.server.stopping.is_set():
            self.wfile.write(b"0" * (1 << 16))

    def answer_bomb(self) -> None:
        self.reply(200, _bomb(), Content_Encoding="gzip")

    def answer_brotli(self) -> None:
        self.reply(200, PICTURE, Content_Encoding="br")

    def answer_badgzip(self) -> None:
        self.reply(200, PICTURE, Content_Encoding="gzip")

    def answer_loop(self) -> None:
        self.reply(302, Location="/loop")

    def answer_hops(self, n: str) -> None:
        self.reply(302, Location=f"/hops/{int(n) - 1}" if int(n) > 1 else "/good")

    def answer_to(self, *target: str) -> None:
        self.reply(302, Location="/".join(target).replace(":/", "://", 1))

    def answer_relative(self) -> None:
        self.reply(301, Location="../good")

    def answer_nowhere(self) -> None:
        self.reply(302)

    def answer_nostore(self) -> None:
        self.reply(200, PICTURE, Cache_Control="no-store")

    def answer_maxage(self, seconds: str) -> None:
        self.reply(200, PICTURE, Cache_Control=f"public, max-age={seconds}")

    def answer_cookie(self) -> None:
        self.reply(302, Location="/good", Set_Cookie="a=b")

    def answer_colour(self, name: str) -> None:
        time.sleep(0.2)
        self.reply(200, corpus.encoded(Image.new("RGB", (9, 9), name), "PNG"))

    def log_message(self, *args: object) -> None:
        """Quiet."""


def make_certificate(host: str, folder: Path) -> Path | None:
    """A certificate for ``host`` that signs itself, with its key in the same file; None without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    path = folder / f"{host}.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    command += ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(path), "-out", f"{path}.crt"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@contextlib.contextmanager
def running(certificate: Path | None = None) -> Iterator[HostileServer]:
    """A server for the time of a ``with`` block, over TLS with a certificate."""
    server = HostileServer()
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
