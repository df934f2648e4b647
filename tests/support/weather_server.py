"""A scripted OpenAI-compatible server on 127.0.0.1: any kind of server, in any kind of weather.

    with WeatherServer("vllm") as server:
        server.weather(status(429, retry_after="0"), words("a ", "cat"))

Each question takes the next of the lined-up weathers; without one it is answered with "one two three". The
probes of a connection are answered as that kind of server does, and take no weather.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Weather", "WeatherServer", "raw_stream", "status", "words"]

Weather = Callable[["_Handler", dict[str, Any]], None]

OWNERS = {"vllm": "vllm", "llamacpp": "llamacpp", "openai": "somebody", "transformers": ""}
PROBE = "Hello"


def chunk(text: str | None = None, **choice: Any) -> str:
    """One event of a stream."""
    delta = {} if text is None else {"content": text}
    event = {"model": "tiny", "choices": [{"index": 0, "delta": delta, **choice}]}
    return f"data: {json.dumps(event)}\n\n"


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


def words(
    *pieces: str,
    finish: str | None = "stop",
    pause_s: float = 0.0,
    done: bool = True,
    model: str = "tiny",
    usage: dict[str, Any] | None = None,
) -> Weather:
    """An answer in these pieces; without a finish reason the stream just ends."""

    def answer(handler: _Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        for piece in pieces:
            handler.send(chunk(piece).replace('"tiny"', json.dumps(model)))
            time.sleep(pause_s)
        if finish is not None:
            handler.send(chunk(None, finish_reason=finish).replace('"tiny"', json.dumps(model)))
            handler.send(f"data: {json.dumps({'choices': [], 'usage': usage or USAGE})}\n\n")
        if done:
            handler.send("data: [DONE]\n\n")
        handler.end_stream()

    return answer


def raw_stream(pieces: Iterable[bytes], pause_s: float = 0.0, *, dies: bool = False) -> Weather:
    """Bytes of a stream as they are; ``dies`` closes the connection without the end of the transfer."""

    def answer(handler: _Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        for piece in pieces:
            handler.send(piece)
            time.sleep(pause_s)
        if dies:
            handler.close_connection = True
        else:
            handler.end_stream()

    return answer


def status(code: int, text: str = "", *, retry_after: str = "", location: str = "") -> Weather:
    """An answer that is none."""

    def answer(handler: _Handler, body: dict[str, Any]) -> None:
        said = text.encode()
        handler.send_response(code)
        if retry_after:
            handler.send_header("Retry-After", retry_after)
        if location:
            handler.send_header("Location", location)
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)

    return answer


class WeatherServer:
    """The server, as a context.

    Args:
        kind: "vllm", "llamacpp", "transformers" or "openai".
        models: the names that it lists.
        ignores: what it takes without a word and does not do: "forms", "patterns", "logprobs",
            "second picture", "begun".
        pause_s: how long each question takes; a function of the body, or seconds.
        key: the key that it wants.

    Attributes:
        asked: the bodies of all questions, without probes.
        whole: the bodies of those that want no stream, probes among them.
        headers: of all requests.
        ports: of whoever posts.
        n_aborted: answers whose reader hung up.
    """

    def __init__(
        self,
        kind: str = "openai",
        *,
        models: tuple[str, ...] = ("tiny",),
        ignores: tuple[str, ...] = (),
        pause_s: Callable[[dict[str, Any]], float] | float = 0.0,
        key: str = "",
    ) -> None:
        self.kind, self.models, self.ignores, self.key = kind, models, ignores, key
        self.pause_s = pause_s
        self.asked: list[dict[str, Any]] = []
        self.whole: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.ports: list[int] = []
        self.n_aborted = 0
        self.n_running = 0  # requests whose answers have not ended
        self.n_unanswered = self.most_unanswered = 0  # those of which no byte of an answer has left
        self.lock = threading.Lock()
        self._weathers: deque[Weather] = deque()
        self._open: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]

    def __enter__(self) -> WeatherServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.die()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def weather(self, *weathers: Weather) -> None:
        """Line up what the next questions meet."""
        self._weathers.extend(weathers)

    def next_weather(self) -> Weather:
        with self.lock:
            return self._weathers.popleft() if self._weathers else words("one ", "two ", "three")

    def die(self) -> None:
        """As if it were killed: no new connections, open ones break."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        """Nothing is printed."""

    @property
    def owner(self) -> WeatherServer:
        owner: WeatherServer = self.server.owner  # type: ignore[attr-defined]
        return owner

    def setup(self) -> None:
        super().setup()
        self.owner._open.add(self.connection)

    def finish(self) -> None:
        self.owner._open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Set-Cookie", "who=me; Path=/")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.connection.settimeout(0.0005)
        try:  # the reader hung up
            if self.connection.recv(1, socket.MSG_PEEK) == b"":
                raise ConnectionResetError
        except (TimeoutError, BlockingIOError):
            pass
        finally:
            self.connection.settimeout(30)

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def json(self, found: Any, code: int = 200) -> None:
        status(code, json.dumps(found))(self, {})

    def do_GET(self) -> None:
        owner = self.owner
        owner.headers.append(dict(self.headers))
        if not self._is_allowed():
            return
        if self.path == "/v1/models":
            if owner.kind == "transformers":
                self.json({"detail": "no cache"}, 500)
                self.close_connection = True  # as uvicorn does, without saying so
                return
            more = {"max_model_len": 4096} if owner.kind == "vllm" else {}
            more |= {"meta": {"n_ctx": 4096}} if owner.kind == "llamacpp" else {}
            data = [{"id": name, "owned_by": OWNERS[owner.kind], **more} for name in owner.models]
            self.json({"data": data})
        elif self.path == "/props" and owner.kind == "llamacpp":
            self.json({"total_slots": 3})
        elif self.path == "/openapi.json" and owner.kind == "transformers":
            self.json({"info": {"title": "FastAPI"}, "paths": {"/v1/systemone": {}}})
        else:
            self.json({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        owner = self.owner
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if len(sent) < int(self.headers["Content-Length"]):  # whoever asked hung up while asking
            owner.next_weather()
            with owner.lock:
                owner.n_aborted += 1
            self.close_connection = True
            return
        body = json.loads(sent)
        owner.headers.append(dict(self.headers))
        owner.ports.append(self.client_address[1])
        if not self._is_allowed():
            return
        if self.path == "/tokenize":
            self._tokenize(body)
        elif self.path == "/apply-template" and owner.kind == "llamacpp":
            self.json({"prompt": " ".join(self._tokens(body))})
        elif "logprobs" in body and not body.get("stream") and "grammar" in body:
            self._forced(body)
        elif "prompt_logprobs" in body:
            self._prompt_log_probabilities(body)
        elif not body.get("stream"):
            owner.whole.append(body)
            self._probe(body)
        else:
            with owner.lock:
                owner.asked.append(body)
                owner.n_running += 1
                owner.n_unanswered += 1
                owner.most_unanswered = max(owner.most_unanswered, owner.n_unanswered)
            try:
                time.sleep(owner.pause_s(body) if callable(owner.pause_s) else owner.pause_s)
                with owner.lock:  # from here on, whoever has read the answer may ask again at once
                    owner.n_unanswered -= 1
                owner.next_weather()(self, body)
            except (OSError, ValueError):
                with owner.lock:
                    owner.n_aborted += 1
                self.close_connection = True
            finally:
                with owner.lock:
                    owner.n_running -= 1

    def _is_allowed(self) -> bool:
        key = self.owner.key
        if not key or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.json(
            {"error": {"message": f"Incorrect API key provided: {self.headers.get('Authorization')}"}}, 401
        )
        return False

    def _tokens(self, body: dict[str, Any]) -> list[str]:
        """A token a word, and ten for a picture; the end of each turn is one."""
        found = []
        for message in body["messages"]:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            is_second = False
            for part in parts:
                if part["type"] == "image_url":
                    is_ignored = is_second and "second picture" in self.owner.ignores
                    found += [] if is_ignored else ["<image>"] * 10
                    is_second = True
                else:
                    found += part["text"].split()
            found.append("<end>")
        is_begun = body["messages"][-1]["role"] == "assistant" and "begun" not in self.owner.ignores
        if is_begun and (body.get("continue_final_message") or self.owner.kind == "llamacpp"):
            return found[:-1]
        return [*found, "assistant:"] if body.get("add_generation_prompt", True) else found

    def _tokenize(self, body: dict[str, Any]) -> None:
        if self.owner.kind not in ("vllm", "llamacpp"):
            self.json({"detail": "Not Found"}, 404)
            return
        if "messages" in body:
            tokens = self._tokens(body)
        elif "content" in body:
            text = body["content"]
            tokens = [text] if body.get("parse_special") and text == "<end>" else text.split()
        else:
            tokens = [body["prompt"]] if body["prompt"] == "<end>" else list(body["prompt"])
        self.json({"count": len(tokens), "tokens": list(range(len(tokens)))})

    def _probe(self, body: dict[str, Any]) -> None:
        """A small question of a connection, answered as this kind of server does."""
        owner = self.owner
        says: dict[str, Any] = {"role": "assistant", "content": "Hi"}
        asks_for_form = "structured_outputs" in body or "grammar" in body or "response_format" in body
        is_pattern = '"pattern"' in json.dumps(body.get("response_format"))
        is_ignored = "forms" in owner.ignores or (is_pattern and "patterns" in owner.ignores)
        if asks_for_form and not is_ignored:
            says["content"] = '{"word": "zq7"}' if "response_format" in body else "zq7"
        choice: dict[str, Any] = {"index": 0, "message": says, "finish_reason": "stop"}
        if body.get("logprobs") and "logprobs" not in owner.ignores:
            choice["logprobs"] = {"content": [{"token": "Hi", "logprob": -0.5, "top_logprobs": []}]}
        usage = {"prompt_tokens": len(self._tokens(body)), "completion_tokens": 1}
        self.json({"model": body["model"], "choices": [choice], "usage": usage})

    def _prompt_log_probabilities(self, body: dict[str, Any]) -> None:
        tokens = self._tokens(body)
        n_prompt = len(self._tokens({"messages": body["messages"][:-1]}))
        said = body["messages"][-1]["content"].split()
        logs: list[Any] = [None] * n_prompt
        logs += [{"5": {"logprob": -float(len(word)), "decoded_token": f" {word}"}} for word in said]
        logs += [
            {"2": {"logprob": -0.25, "decoded_token": "<end>"}},
            {"9": {"logprob": -9.0, "decoded_token": "\n"}},
        ]
        self.json(
            {
                "choices": [{"message": {"content": ""}}],
                "prompt_logprobs": logs,
                "usage": {"prompt_tokens": len(tokens)},
            }
        )

    def _forced(self, body: dict[str, Any]) -> None:
        n = body["grammar"].count("<[")
        logs = [{"id": 5, "logprob": -1.0}] * n + [{"id": 2, "logprob": -0.25}]
        if "<[" not in body["grammar"]:
            self._probe(body)
            return
        choice = {"message": {"content": ""}, "logprobs": {"content": logs}}
        self.json({"choices": [choice], "usage": {"prompt_tokens": len(self._tokens(body))}})
