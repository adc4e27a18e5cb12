"""Tests of `mafunzo.entrypoints.http.audit`: what an entry says of a request, and which end of it counts."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from mafunzo.entities.user import AuditEntry, Role
from mafunzo.entrypoints.http.audit import LONGEST_ID, Audit, route_name
from mafunzo.entrypoints.http.identity import Caller


class Log(list[AuditEntry]):
    """A log in memory."""


def app_with(log: Any, statuses: list[int]) -> FastAPI:
    app = FastAPI()

    @app.post("/{workspace}/jobs/{name}", status_code=201)
    def create_job(request: Request, name: str) -> str:
        request.state.caller = Caller("amina", Role.CONTRIBUTOR, "t1")
        if name == "broken":
            raise RuntimeError
        return name

    def is_audited(scope: Any, status: int) -> bool:
        statuses.append(status)
        return bool(scope["method"] == "POST")

    app.add_middleware(Audit, log=log, is_audited=is_audited)
    return app


def ask(app: FastAPI, method: str, path: str) -> None:
    async def work() -> None:
        transport = httpx.ASGITransport(app, client=("192.0.2.7", 1234), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.request(method, path)

    asyncio.run(work())


@pytest.fixture
def log() -> Log:
    return Log()


def test_an_entry_says_who_asked_for_what_and_how_it_ended(log: Log) -> None:
    ask(app_with(log, []), "POST", "/mafunzo/jobs/j1")
    [entry] = log
    assert (entry.user, entry.role, entry.address) == ("amina", "contributor", "192.0.2.7")
    assert (entry.method, entry.what, entry.ids, entry.status) == ("POST", "create_job", {"name": "j1"}, 201)
    assert entry.duration_ms >= 0


def test_an_id_is_cut_where_it_is_too_long_for_a_line(log: Log) -> None:
    ask(app_with(log, []), "POST", f"/mafunzo/jobs/{'j' * 999}")
    assert log[0].ids == {"name": "j" * LONGEST_ID}


def test_a_request_for_nothing_that_exists_has_no_route_and_nobody(log: Log) -> None:
    ask(app_with(log, []), "POST", "/nothing")
    [entry] = log
    assert (entry.user, entry.what, entry.ids, entry.status) == ("", "", {}, 404)


def test_what_broke_before_its_answer_began_counts_as_a_failure(log: Log) -> None:
    ask(app_with(log, statuses := []), "POST", "/mafunzo/jobs/broken")
    assert (statuses, [entry.status for entry in log]) == ([500], [500])


def test_what_is_not_audited_leaves_no_entry(log: Log) -> None:
    ask(app_with(log, statuses := []), "GET", "/mafunzo/jobs/j1")
    assert (statuses, list(log)) == ([405], [])


def test_a_scope_without_a_route_has_no_route_name() -> None:
    assert route_name({}) == ""
