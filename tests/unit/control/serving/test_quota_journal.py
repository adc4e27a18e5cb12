"""The journal of quotas: what was counted outlives a killed server, wherever in the keeping of the counts that was."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mafunzo.control.serving import quota
from mafunzo.control.serving.quota import Quotas, read_file
from mafunzo.control.serving.quota_journal import QuotaJournal
from mafunzo.entities.rate_limit import DayUsage

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
KILLED = """
import os, signal, sys
from pathlib import Path
from mafunzo.control.serving.quota import Quotas
quotas = Quotas(Path(sys.argv[1]))
quotas.settle(quotas.add("chat", "primary", 1, 80), -50)
quotas.add("chat", "user:amina", 1, 0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "quotas.json"


def requests_of(file: Path) -> int:
    """How many requests the next server counts on from."""
    return Quotas(file, lambda: NOON).count("chat", "primary").requests


def test_a_process_that_is_killed_takes_no_count_along(file: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [(usage.caller, usage.requests, usage.tokens) for usage in read_file(file)] == [
        ("primary", 1, 30),
        ("user:amina", 1, 0),
    ]


def test_the_counts_that_are_kept_take_the_place_of_the_journal(file: Path) -> None:
    quotas = Quotas(file, lambda: NOON)
    for _ in range(3):
        quotas.add("chat", "primary", 1, 0)
    quotas.keep()
    assert sorted(path.name for path in file.parent.iterdir()) == ["quotas.json"]
    quotas.add("chat", "primary", 1, 0)
    assert requests_of(file) == 4


@pytest.mark.parametrize("step", ["write_json", "forget"])
def test_keeping_that_ends_half_way_loses_and_doubles_nothing(
    step: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object, **__: object) -> None:
        raise OSError("cut off")

    (quotas := Quotas(file, lambda: NOON)).add("chat", "primary", 1, 0)
    with monkeypatch.context() as cut:
        cut.setattr(*((quota, step, end) if step == "write_json" else (QuotaJournal, step, end)))
        quotas.keep()
    assert requests_of(file) == 1
    quotas.add("chat", "primary", 1, 0)
    assert requests_of(file) == 2
    quotas.keep()
    assert (requests_of(file), (file.parent / "quotas.jsonl.1").exists()) == (2, False)


def test_a_line_that_was_cut_off_spoils_no_other(file: Path) -> None:
    (quotas := Quotas(file, lambda: NOON)).add("chat", "primary", 1, 0)
    with (file.parent / "quotas.jsonl").open("a") as journal:
        journal.write('\n["chat", "pri')
    quotas.add("chat", "primary", 1, 0)
    assert requests_of(file) == 2


def test_counts_go_on_where_the_journal_cannot_be_written_and_the_log_says_so_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (journal := file.parent / "quotas.jsonl").mkdir()
    quotas = Quotas(file, lambda: NOON)
    for _ in range(2):
        quotas.add("chat", "primary", 1, 0)
    assert caplog.text.count("Quotas can't be written down as they are used, only each second") == 1
    journal.rmdir()
    quotas.keep()
    assert json.loads(file.read_text())[0]["requests"] == 2
    assert requests_of(file) == 2


def test_the_day_before_counts_for_nothing(file: Path) -> None:
    QuotaJournal(file).append(DayUsage("chat", "primary", "2026-11-29", 7, 0))
    assert [usage.requests for usage in read_file(file)] == [7]
    assert requests_of(file) == 0
