"""Tests of `mafunzo.entrypoints.http.application`: the layers around both ports' routes, and their order."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from mafunzo.entities.user import AuditEntry
from mafunzo.entrypoints.http.application import is_among, surround
from mafunzo.entrypoints.http.context import Context, context_of
from mafunzo.entrypoints.http.limits import Limits
from mafunzo.entrypoints.http.listen import LOOPBACK_NAMES


class Layer:
    """A middleware that keeps the paths of what passes it."""

    def __init__(self, app: ASGIApp, paths: list[str]) -> None:
        self._app, self._paths = app, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._paths.append(scope["path"])
        await self._app(scope, receive, send)


class Surrounded:
    """An application with one route, a layer of its own, and a log."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.paths: list[str] = []
        parts = {
            "audit": SimpleNamespace(append=self.entries.append),
            "names": ["localhost"],
            "limits": Limits(headers=9),
        }
        self.context = cast(Context, SimpleNamespace(**parts))
        app = FastAPI()

        @app.get("/things/{thing}")
        def get_thing(request: Request, thing: str) -> bool:
            if thing == "gone":
                raise ClientDisconnect
            return context_of(request) is self.context

        surround(app, self.context, lambda scope, status: scope["method"] == "GET", lambda app: Layer(app, self.paths))
        self.client = TestClient(app, base_url="http://localhost")


@pytest.fixture
def app() -> Surrounded:
    return Surrounded()


def test_a_route_finds_the_servers_context(app: Surrounded) -> None:
    assert app.client.get("/things/x").json() is True


def test_a_request_is_written_into_the_log_with_its_route_and_ids(app: Surrounded) -> None:
    app.client.get("/things/x")
    app.client.post("/things/x")
    [entry] = app.entries
    assert (entry.method, entry.what, entry.ids, entry.status) == ("GET", "get_thing", {"thing": "x"}, 200)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"host": "evil.example"}, 421, id="another name"),
        pytest.param({f"x-{number}": "y" for number in range(10)}, 431, id="too many headers"),
    ],
)
def test_what_is_refused_at_the_door_reaches_no_layer_and_no_log(
    headers: dict[str, str], status: int, app: Surrounded
) -> None:
    assert app.client.get("/things/x", headers=headers).status_code == status
    assert (app.paths, app.entries) == ([], [])


def test_layers_of_its_own_stand_behind_the_door(app: Surrounded) -> None:
    app.client.get("/things/x")
    assert app.paths == ["/things/x"]


def test_a_client_that_went_away_is_no_fault_of_the_servers(app: Surrounded) -> None:
    answer: Any = app.client.get("/things/gone")
    assert (answer.status_code, answer.content) == (400, b"")
    assert [entry.status for entry in app.entries] == [400]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("[::1]", True),
        ("[::1]:8080", True),
        ("", False),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", False),
        ("127.0.0.1:x", False),
        ("localhost:", False),
        ("0.0.0.0:8080", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("localhost:8080@evil.example", False),
        ("localhost:²", False),
    ],
)
def test_only_the_server_s_names_are_answered(host: str, expected: bool) -> None:
    assert is_among(host, LOOPBACK_NAMES) is expected


@pytest.mark.parametrize("path", ["/things/%0a", "/things/x?y=%00"])
def test_an_address_with_a_control_character_is_refused_as_every_dialect_reads_it(path: str, app: Surrounded) -> None:
    answer = app.client.get(path)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "InvalidUri")
    assert answer.json()["error"]["message"] == "The address has a control character."
