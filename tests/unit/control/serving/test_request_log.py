"""Kept prompts and answers: found by the id, readable by their owner only, and never in a client's way."""

import asyncio
import logging
import stat
from pathlib import Path
from typing import cast

import pytest

from mafunzo.control.serving import request_log
from mafunzo.control.serving.answer import Answer
from mafunzo.control.serving.request_log import LoggedRequest, RequestLog, entry_of
from mafunzo.control.store.home import Home
from tests.unit.control.serving.test_named_answer import Given, chunk


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def entry(answer_id: str, at: str = "2026-11-30T10:00:00+00:00") -> LoggedRequest:
    body = {"messages": [{"role": "user", "content": "jambo"}]}
    return LoggedRequest(answer_id, at, "chat", "blue", "m:1", "/v1/chat/completions", 200, body, "habari")


def test_a_request_is_found_by_its_answers_id_and_read_by_its_owner_only(home: Home) -> None:
    for number in range(3):
        request_log.append(home, "abc", entry(f"id-{number}"))
    request_log.append(home, "abc", entry("id-9", at="2026-12-01T00:00:00+00:00"))
    assert request_log.find(home, "abc", "id-1") == entry("id-1")
    assert request_log.find(home, "abc", "id-9") is not None
    assert request_log.find(home, "abc", "id-7") is None
    assert request_log.find(home, "other", "id-1") is None
    files = request_log.log_files(home)
    assert [file.name for file in files] == ["2026-11-30.jsonl", "2026-12-01.jsonl"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_line_that_was_cut_off_is_left_out(home: Home) -> None:
    request_log.append(home, "abc", entry("id-1"))
    [file] = request_log.log_files(home)
    file.write_bytes(b'{"id": "id-2", "at"\n' + file.read_bytes())
    assert request_log.find(home, "abc", "id-2") is None
    assert request_log.find(home, "abc", "id-1") == entry("id-1")


class Kept:
    """A log whose entries are looked at; on a full disk it fails."""

    def __init__(self, is_full: bool = False) -> None:
        self.entries: list[tuple[str, LoggedRequest]] = []
        self._is_full = is_full
        self.log = RequestLog(self._append)

    def _append(self, reference: str, kept: LoggedRequest) -> None:
        if self._is_full:
            raise OSError(28, "No space left on device")
        self.entries.append((reference, kept))

    def watched(self) -> Answer:
        answer = Given([chunk("hab", id="a"), chunk("ari", id="a")])

        def tell(status: int, content: bytes) -> LoggedRequest:
            return entry_of("id-1", "chat", "blue", "m:1", "/v1/chat/completions", b'{"a": 1}', status, content)

        return self.log.watched(cast(Answer, answer), "abc", tell)


def test_an_answer_is_kept_when_it_ends_however_it_ends() -> None:
    kept = Kept()

    async def work() -> None:
        whole = kept.watched()
        assert b"".join([part async for part in whole.chunks()]).count(b"data: ") == 2
        whole.close()
        left = kept.watched()
        async for _ in left.chunks():
            break
        left.close()
        await kept.log.close()

    asyncio.run(work())
    assert [(reference, one.answer, one.request) for reference, one in kept.entries] == [
        ("abc", "habari", {"a": 1}),
        ("abc", "hab", {"a": 1}),
    ]


def test_on_a_full_disk_the_client_has_its_answer_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(is_full=True)

    async def work() -> None:
        assert len([part async for part in kept.watched().chunks()]) == 2
        await kept.log.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(work())
    assert "Request id-1 wasn't kept: [Errno 28] No space left on device" in caplog.text
