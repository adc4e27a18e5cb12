"""Comparisons in a home's files: kept in their order, bounded, and gone with their deployment."""

from pathlib import Path

import pytest

from mafunzo.control.serving import mirror_log
from mafunzo.control.store.home import Home
from tests.unit.entities.test_mirror import comparison


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_comparisons_are_kept_in_their_order_by_mirror(home: Home) -> None:
    for at in range(3):
        mirror_log.append(home, "chat", comparison(at=float(at)))
    mirror_log.append(home, "chat", comparison(mirror="blue", at=9.0))
    assert [one.at for one in mirror_log.read(home, "chat", "green")] == [0, 1, 2]
    mirror_log.forget(home, "chat", "green")
    assert (mirror_log.read(home, "chat", "green"), len(mirror_log.read(home, "chat", "blue"))) == ([], 1)


def test_old_comparisons_make_room_for_new_ones(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_log, "FILE_BYTES", 2000)
    for at in range(100):
        mirror_log.append(home, "chat", comparison(at=float(at)))
    kept = [one.at for one in mirror_log.read(home, "chat", "green")]
    assert kept == [float(at) for at in range(100 - len(kept), 100)]
    assert 5 < len(kept) < 30


def test_a_line_that_was_cut_off_is_left_out(home: Home) -> None:
    mirror_log.append(home, "chat", comparison())
    newest, _ = mirror_log.mirror_files(home, "chat", "green")
    newest.write_text(newest.read_text() + '{"at": 1.0, "li')
    assert len(mirror_log.read(home, "chat", "green")) == 1
