"""Tests of `mafunzo.control.workspace.chat_client` against a small server: what is sent, and what errors become."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mafunzo.control.workspace.chat_client import ChatClient
from mafunzo.errors import (
    Forbidden,
    InvalidParameter,
    NotFound,
    RateLimitExceeded,
    TimedOut,
    Unauthorized,
    Unavailable,
    WorkerFailed,
)

HELLO = [{"role": "user", "content": "Habari!"}]


class Server(ThreadingHTTPServer):
    """Answers every request as it is told, and keeps the newest one."""

    status = 200
    content = b""
    body: Any = None
    headers: Any = None

    def client(self, deployment: str | None = None) -> ChatClient:
        return ChatClient(f"http://127.0.0.1:{self.server_port}/v1", "chat", "the-key", deployment)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.headers = {"path": self.path, **self.headers}
        self.server.body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as opened:
        thread = threading.Thread(target=opened.serve_forever, args=(0.02,))
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def test_a_reply_is_asked_for_in_openai_s_dialect_with_the_endpoint_s_key(server: Server) -> None:
    server.content = json.dumps({"choices": [{"message": {"content": "Nzuri."}}]}).encode()
    assert server.client("blue").chat(HELLO, temperature=0) == "Nzuri."
    assert server.body == {"model": "chat", "messages": HELLO, "temperature": 0}
    headers = {name.lower(): value for name, value in server.headers.items()}
    assert (headers["path"], headers["authorization"]) == ("/v1/chat/completions", "Bearer the-key")
    assert headers["mafunzo-deployment"] == "blue"


def test_a_stream_comes_piece_by_piece_and_ends_with_its_error(server: Server) -> None:
    pieces = [{"choices": [{"delta": {"content": text}}]} for text in ("Nzu", "ri.", None)]
    events = [json.dumps(piece) for piece in pieces]
    server.content = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()
    assert list(server.client().stream(HELLO)) == ["Nzu", "ri.", ""]
    assert server.body["stream"] is True
    server.content = f'data: {events[0]}\n\ndata: {{"error": {{"message": "out of memory"}}}}\n\n'.encode()
    stream = server.client().stream(HELLO)
    assert next(stream) == "Nzu"
    with pytest.raises(WorkerFailed, match="out of memory"):
        next(stream)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidParameter),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (422, InvalidParameter),
        (429, RateLimitExceeded),
        (500, WorkerFailed),
        (503, Unavailable),
        (504, TimedOut),
    ],
)
def test_an_error_of_the_server_is_one_of_ours(server: Server, status: int, error: type[Exception]) -> None:
    server.status, server.content = status, b'{"error": {"message": "why"}}'
    with pytest.raises(error, match=f"The endpoint answered {status}: why"):
        server.client().invoke({"messages": HELLO})
    server.content = b"no JSON"
    with pytest.raises(error, match=f"The endpoint answered {status}: no JSON"):
        list(server.client().stream(HELLO))


def test_the_key_is_not_shown() -> None:
    assert "the-key" not in repr(ChatClient("http://127.0.0.1/v1", "chat", "the-key"))
