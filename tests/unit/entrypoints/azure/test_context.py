"""The context of a request is made once, in the caller's name."""

from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI
from starlette.requests import Request

from mafunzo.entities.user import Role
from mafunzo.entrypoints.azure.context import AzureContext, azure_context
from mafunzo.entrypoints.azure.wire.envelope import Place
from mafunzo.entrypoints.http.identity import Caller

OWNER, OLGA = Caller("amina", Role.OWNER), Caller("olga", Role.CONTRIBUTOR)


class Workspace:
    """Counts how often somebody's view of it is made."""

    def __init__(self, user: str, views: list[str]) -> None:
        self.user, self.views = user, views

    def acting_as(self, user: str) -> "Workspace":
        self.views.append(user)
        return Workspace(user, self.views)


def request_to(app: FastAPI, host: str = "gpu-box:8443") -> Request:
    return Request({"type": "http", "app": app, "headers": [(b"host", host.encode())], "state": {}})


def server() -> tuple[FastAPI, list[str]]:
    views: list[str] = []
    app = FastAPI()
    app.state.context = AzureContext(
        caller=OWNER,
        place=Place("https://127.0.0.1:8443"),
        identity=cast(Any, SimpleNamespace()),
        workspace=cast(Any, Workspace("amina", views)),
        job_logs=cast(Any, None),
        serving=cast(Any, None),
        http_port=8080,
    )
    return app, views


def test_a_request_has_one_context_for_all_who_ask_for_it() -> None:
    app, views = server()
    request = request_to(app)
    request.state.caller = OLGA
    contexts = [azure_context(request) for _ in range(4)]
    assert all(context is contexts[0] for context in contexts)
    assert contexts[0].workspace.user == "olga" and views == ["olga"]
    assert contexts[0].place.base == "https://gpu-box:8443"


def test_it_is_the_owner_s_until_it_is_known_who_asks() -> None:
    app, views = server()
    request = request_to(app)
    assert azure_context(request).workspace.user == "amina"
    request.state.caller = OLGA
    assert azure_context(request).workspace.user == "olga"
    assert azure_context(request).caller == OLGA
    assert views == ["olga"]


def test_the_owner_has_the_server_s_own_workspace() -> None:
    app, views = server()
    request = request_to(app)
    request.state.caller = OWNER
    assert azure_context(request).workspace is app.state.context.workspace
    assert views == []


def test_requests_share_no_context() -> None:
    app, _ = server()
    one, other = request_to(app), request_to(app, "127.0.0.1:8443")
    one.state.caller = OLGA
    assert azure_context(one).caller == OLGA
    assert (azure_context(other).caller, azure_context(other).place.host) == (OWNER, "127.0.0.1:8443")
