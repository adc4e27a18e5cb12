"""The audit log on disk: what is written is read again, whatever happens to the file."""

import logging
import stat
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mafunzo.control.store.audit import AuditLog
from mafunzo.control.store.home import Home
from mafunzo.entities.user import AuditEntry

NOON = datetime(2026, 5, 6, 12, 0, tzinfo=UTC)
ENTRY = AuditEntry(NOON, "amina", "owner", "192.0.2.7", "PUT", "put_job", {"name": "a\nb"}, 201, 12.5)


def test_what_is_written_is_read_again_and_is_its_user_s_only(home: Home) -> None:
    AuditLog(home).append(ENTRY)
    AuditLog(home).append(replace(ENTRY, user="juma"))
    assert list(AuditLog(home).read()) == [ENTRY, replace(ENTRY, user="juma")]
    file = home.logs / "audit.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().count("\n") == 2


def test_a_full_file_makes_room_and_the_oldest_goes(home: Home) -> None:
    log = AuditLog(home, limit_bytes=1, full_files=2)
    for status in range(5):
        log.append(replace(ENTRY, status=status))
    assert [entry.status for entry in log.read()] == [2, 3, 4]
    assert sorted(file.name for file in home.logs.iterdir()) == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]


def test_a_line_that_was_cut_off_is_left_out_and_said(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    AuditLog(home).append(ENTRY)
    with (home.logs / "audit.jsonl").open("a") as file:
        file.write('{"time": "2026\n')
    AuditLog(home).append(ENTRY)
    assert list(AuditLog(home).read()) == [ENTRY, ENTRY]
    assert "line 2 isn't a whole entry" in caplog.text


def test_what_cannot_be_written_goes_to_the_server_s_log(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    (home.logs / "audit.jsonl").mkdir()
    with caplog.at_level(logging.ERROR):
        AuditLog(home).append(ENTRY)
    assert "can't be written (Is a directory)" in caplog.text and "put_job" in caplog.text
