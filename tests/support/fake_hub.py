"""A hub on this machine: serves folders by the few routes that the client uses to fetch a snapshot.

Gated and missing repositories answer as the real one does; what clients asked for is kept.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

__all__ = ["FakeHub", "serve"]

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@dataclass
class FakeHub:
    """What is served, and what was asked.

    Attributes:
        repos: id → folder.
        gated: ids that want a token.
        url: where it listens.
        slow_s: pause after each chunk of a large file.
        fetched: (id, file) of each download.
        peeked: (id, file) of each request for a part.
        tokens: the values of the authorization header that came.
    """

    repos: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    url: str = ""
    slow_s: float = 0.0
    fetched: list[tuple[str, str]] = field(default_factory=list)
    peeked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


@contextmanager
def serve(repos: dict[str, Path], **options: Any) -> Iterator[FakeHub]:
    """Run a hub until the end of the block."""
    hub = FakeHub(repos, **options)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        token = self.headers.get("Authorization", "")
        if token:
            self.hub.tokens.add(token)
        parts = urlparse(self.path).path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo_id, rest = "/".join(parts[2:4]), parts[4:]
        else:
            repo_id, rest = "/".join(parts[:2]), parts[2:]
        if repo_id not in self.hub.repos:
            return self._error(404, "RepoNotFound", with_body)
        if repo_id in self.hub.gated and not token:
            return self._error(403, "GatedRepo", with_body)
        folder = self.hub.repos[repo_id]
        if rest[:1] == ["resolve"]:
            return self._file(repo_id, folder / "/".join(rest[2:]), with_body)
        if rest[:1] == ["tree"]:
            return self._json([_entry(path) for path in sorted(folder.iterdir())], with_body)
        if len(rest) >= 2 and rest[0] == "revision" and rest[1] not in ("main", COMMIT):
            return self._error(404, "RevisionNotFound", with_body)
        files = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
        return self._json({"id": repo_id, "sha": COMMIT, "siblings": files, "tags": []}, with_body)

    def _json(self, content: Any, with_body: bool) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, with_body)

    def _error(self, status: int, code: str, with_body: bool) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, with_body)

    def _file(self, repo_id: str, path: Path, with_body: bool) -> None:
        if not path.is_file():
            return self._error(404, "EntryNotFound", with_body)
        content = path.read_bytes()
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if with_body and last:  # a header of a weights file
            part = content[int(first) : int(last) + 1]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self.hub.peeked.append((repo_id, path.name))
            return self._send(206, part, headers, with_body)
        if with_body:
            self.hub.fetched.append((repo_id, path.name))
        return self._send(200, content, headers, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        try:
            for start in range(0, len(body), 1 << 16):
                self.wfile.write(body[start : start + (1 << 16)])
                if self.hub.slow_s and len(body) > 1 << 18:
                    time.sleep(self.hub.slow_s)
        except OSError:  # the client went away
            self.close_connection = True


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"type": "file", "path": path.name, "size": len(content), "oid": _etag(content)}
