"""Threads that wait for one another leave cores to others that want them too, and take them again."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo.compute.device import fewer_cores
from mafunzo.compute.device.fewer_cores import FewerCores, cores_to_keep, idle_s

CORES = os.sched_getaffinity(0)
needs_cores = pytest.mark.skipif(len(CORES) < 2, reason="of one core none can be left")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """For how long the cores that were left have been idle."""
    idle = {"s": 100.0}
    monkeypatch.setattr(fewer_cores, "idle_s", lambda cores: idle["s"] * bool(cores))
    return idle


@pytest.fixture
def fewer() -> Iterator[FewerCores]:
    fewer = FewerCores(CORES)
    yield fewer
    fewer.take_all()
    assert os.sched_getaffinity(0) == CORES


@pytest.mark.parametrize(
    ("cores", "share", "kept"),
    [
        pytest.param(2, 1.0, 2, id="nobody else"),
        pytest.param(2, 0.67, 2, id="one other on two cores"),
        pytest.param(2, 0.5, 1, id="one other a core"),
        pytest.param(2, 0.33, 1, id="two others a core"),
        pytest.param(8, 0.73, 8, id="a few others on eight cores"),
        pytest.param(8, 0.5, 4, id="one other a core of eight"),
        pytest.param(8, 0.33, 2, id="two others a core of eight"),
        pytest.param(8, 0.01, 1, id="hundreds"),
        pytest.param(1, 0.2, 1, id="one core"),
    ],
)
def test_a_team_keeps_as_many_cores_as_it_has_time_of(cores: int, share: float, kept: int) -> None:
    assert cores_to_keep(cores, share) == kept


def test_idle_time_is_read_by_core(tmp_path: Path) -> None:
    stat, tick = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    stat.write_text(
        f"cpu  9 9 9 {9 * tick} 9\ncpu0 1 0 1 {2 * tick} {tick} 0\ncpu1 1 0 1 {5 * tick} 0 0\ncpu11 1 0 1 {7 * tick} 0 0\nintr 1\n"
    )
    assert (idle_s([0], stat), idle_s([0, 1], stat), idle_s([], stat)) == (3.0, 8.0, 0.0)
    assert idle_s([0], tmp_path / "none") == 0.0


@needs_cores
def test_all_threads_leave_cores_to_others_until_these_are_idle(fewer: FewerCores, idle: dict[str, float]) -> None:
    is_over = threading.Event()
    other = threading.Thread(target=is_over.wait)
    other.start()
    try:
        assert other.native_id is not None
        fewer.look(0.5, 0.5)
        kept = os.sched_getaffinity(0)
        assert len(kept) == len(CORES) // 2 and os.sched_getaffinity(other.native_id) == kept
        fewer.look(0.5, 0.5)
        assert os.sched_getaffinity(0) == kept, "others run on all that was left"
        idle["s"] += 0.5 * (len(CORES) - len(kept))
        fewer.look(0.5, 0.5)
        assert fewer.is_on_all and os.sched_getaffinity(other.native_id) == CORES
    finally:
        is_over.set()
        other.join()


@needs_cores
def test_which_cores_are_kept_is_drawn(fewer: FewerCores, idle: dict[str, float]) -> None:
    drawn = set()
    for _ in range(64):
        fewer.look(0.5, 0.5)
        drawn |= os.sched_getaffinity(0)
        fewer.take_all()
    assert drawn == CORES


@needs_cores
def test_a_fork_runs_on_all_cores(fewer: FewerCores, idle: dict[str, float]) -> None:
    fewer.look(0.5, 0.5)
    assert os.sched_getaffinity(0) != CORES
    child = os.fork()
    if child == 0:
        os._exit(0 if os.sched_getaffinity(0) == CORES else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_thread_that_has_its_share_leaves_nothing(fewer: FewerCores, idle: dict[str, float]) -> None:
    fewer.look(0.9, 0.5)
    assert fewer.is_on_all and os.sched_getaffinity(0) == CORES


def test_where_nobody_says_when_cores_are_idle_none_is_left(fewer: FewerCores, idle: dict[str, float]) -> None:
    idle["s"] = 0.0
    fewer.look(0.5, 0.5)
    assert fewer.is_on_all and os.sched_getaffinity(0) == CORES
