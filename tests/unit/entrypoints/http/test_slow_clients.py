"""Clients that ask too much of the server's patience or memory are cut off; those that wait for a slow server aren't."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from mafunzo.control.store.home import Home
from mafunzo.entrypoints.http.application import Door
from mafunzo.entrypoints.http.limits import Limits
from mafunzo.entrypoints.http.slow_clients import server_options
from mafunzo.entrypoints.http.tls import certificate
from tests.support.waiting import LIMIT_S, until

IMPATIENCE_S = 0.4
IMPATIENT = Limits(head_s=IMPATIENCE_S, body_s=IMPATIENCE_S, linger_s=IMPATIENCE_S, reading_s=IMPATIENCE_S)
"""Less patience than ours."""
SLOW_S = 4.0
"""How long `/slow` takes before it reads."""
SOME = b"x" * 2**20


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size of what came; `/slow` and `/late` take their time before they read, `/early` never reads, `/large` says a lot."""
    request = Request(scope, receive)
    await asyncio.sleep(
        {"/slow": SLOW_S, "/late": 3 * IMPATIENCE_S, "/early": IMPATIENCE_S / 4}.get(scope["path"], 0.0)
    )
    size = 0
    try:
        if scope["path"] != "/early":
            async for chunk in request.stream():
                size += len(chunk)
    except ClientDisconnect:
        return
    content: Response = PlainTextResponse(SOME * 64 if scope["path"] == "/large" else f"{size} bytes")
    await content(scope, receive, send)


@contextmanager
def serving(limits: Limits = IMPATIENT, **more: Any) -> Iterator[tuple[uvicorn.Server, Callable[[], socket.socket]]]:
    """A server, and how to connect to it."""
    options: dict[str, Any] = {"log_config": None, "lifespan": "off", **server_options(limits), **more}
    server = uvicorn.Server(uvicorn.Config(Door(app, ["x"], limits), **options))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    opened: list[socket.socket] = []

    def open_one() -> socket.socket:
        opened.append(socket.create_connection(listener.getsockname(), LIMIT_S))
        return opened[-1]

    yield server, open_one
    for connection in opened:
        connection.close()
    server.should_exit = True
    thread.join(LIMIT_S)
    listener.close()


@pytest.fixture
def connect() -> Iterator[Callable[[], socket.socket]]:
    """Connections to a server that has less patience than ours."""
    with serving() as (_, open_one):
        yield open_one


def test_a_connection_over_tls_is_let_go_of_with_a_body_that_nobody_read(tmp_path: Path) -> None:
    files = certificate(Home(tmp_path), ["127.0.0.1"])
    trusting = ssl.create_default_context(cafile=files.authority)
    first = b"GET /early HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    second = b"PUT /early HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000
    with serving(ssl_certfile=files.certificate, ssl_keyfile=files.key) as (_, open_one):
        with trusting.wrap_socket(open_one(), server_hostname="127.0.0.1") as connection:
            port = connection.getpeername()[1]
            connection.sendall(first + second)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        until(lambda: (port, psutil.CONN_CLOSE_WAIT) not in server_ends())


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", id="no chunk"),
        pytest.param(
            b"HEAD / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", id="no chunk of a HEAD"
        ),
        pytest.param(
            b"POST /early HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc", id="answered before"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nokNONSENSE\r\n\r\n", id="no second request"
        ),
    ],
)
def test_what_is_no_http_is_no_fault_of_the_servers(
    connect: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture, request_bytes: bytes
) -> None:
    connection = connect()
    connection.sendall(request_bytes)
    answer(connection)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def server_ends() -> set[tuple[int, str]]:
    """Return the port and status of this process's connections."""
    return {(one.laddr.port, one.status) for one in psutil.Process().net_connections("tcp") if one.laddr}


def answer(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection, however it does."""
    found = b""
    try:
        while chunk := connection.recv(65536):
            found += chunk
    except ConnectionResetError:
        pass
    return found


def trickle(connection: socket.socket, part: bytes) -> None:
    """Send a little at a time, for as long as the server takes it."""
    try:
        until(lambda: connection.sendall(part), between=lambda: threading.Event().wait(0.05))
    except OSError:
        return


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\n", b"x: y\r\n", id="headers"),
        pytest.param(b"G", b"E", id="request line"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n", b"x", id="body"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n", id="chunks"),
        pytest.param(
            b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n", b"x" * 9999, id="unread body"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HT", b"T", id="second request"),
    ],
)
def test_a_client_that_trickles_is_cut_off(connect: Callable[[], socket.socket], begin: bytes, part: bytes) -> None:
    connection = connect()
    connection.sendall(begin)
    trickle(connection, part)


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\n", id="half a head"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf", id="half a body"),
        pytest.param(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf", id="half a body, unread"),
    ],
)
def test_a_client_that_stalls_is_cut_off(connect: Callable[[], socket.socket], begin: bytes) -> None:
    connection = connect()
    connection.sendall(begin)
    answer(connection)


def test_a_client_that_does_not_read_is_cut_off(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
    assert connection.recv(1) == b"H"
    port = connection.getsockname()[1]
    until(lambda: not any(one.raddr and one.raddr.port == port for one in psutil.Process().net_connections("tcp")))
    assert len(answer(connection)) < len(SOME) * 64


@pytest.mark.parametrize("path", [b"/", b"/slow"])
def test_a_client_whose_server_is_slow_is_waited_for(path: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (path, 4 * len(SOME))
    with serving(replace(IMPATIENT, body_s=SLOW_S / 2)) as (
        _,
        open_one,
    ):  # this thread, too, waits for a loaded machine
        connection = open_one()
        connection.sendall(head + 4 * SOME)
        assert answer(connection).endswith(b"%d bytes" % (4 * len(SOME)))


def test_requests_one_behind_the_other_are_answered(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    request = b"POST /late HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok"
    connection.sendall(2 * request + request.replace(b"host", b"connection: close\r\nhost"))
    assert answer(connection).count(b"2 bytes") == 3


@pytest.mark.parametrize(
    ("request_head", "told"),
    [
        pytest.param(
            b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * IMPATIENT.headers, b"431 Request Header", id="many headers"
        ),
        pytest.param(b"GET /a%00b HTTP/1.1\r\nhost: x\r\n", b"400 Bad Request", id="NUL"),
        pytest.param(b"GET /?a=%00b HTTP/1.1\r\nhost: x\r\n", b"400 Bad Request", id="NUL in the query"),
        pytest.param(b"GET /a%0d%0ab HTTP/1.1\r\nhost: x\r\n", b"400 Bad Request", id="line end"),
        pytest.param(b"GET / HTTP/1.1\r\na: " + b"b" * 2 * IMPATIENT.head_bytes, b"400 Bad Request", id="large header"),
        pytest.param(b"GET /" + b"b" * 2 * IMPATIENT.head_bytes, b"400 Bad Request", id="large address"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n", b"400 Bad Request", id="negative length"),
        pytest.param(b"GET /ok HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 100, b"200 OK", id="headers enough"),
    ],
)
def test_a_head_has_its_limits(request_head: bytes, told: bytes) -> None:
    with serving(Limits()) as (_, open_one):
        connection = open_one()
        connection.sendall(request_head + b"connection: close\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 " + told)
