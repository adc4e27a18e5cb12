"""Threads that compute keep a core each while others want the cores, and are let go of afterwards."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo.compute.device.placement import Placement, cores_of_threads

CORES = os.sched_getaffinity(0)


@pytest.fixture
def threads() -> Iterator[list[int]]:
    """As many threads of this process as it has cores, by the kernel's numbers; none of them is the one that tests."""
    is_over, numbers = threading.Event(), []
    started = threading.Barrier(len(CORES) + 1)

    def stay() -> None:
        numbers.append(threading.get_native_id())
        started.wait()
        is_over.wait()

    team = [threading.Thread(target=stay) for _ in CORES]
    for thread in team:
        thread.start()
    started.wait()
    yield sorted(numbers)
    is_over.set()
    for thread in team:
        thread.join()


@pytest.mark.parametrize(
    ("threads", "kept", "cores"),
    [
        pytest.param([11, 12], {}, {11: 0, 12: 1}, id="a team"),
        pytest.param([12, 11], {}, {11: 0, 12: 1}, id="in whatever order they are seen"),
        pytest.param([11, 12, 21, 22], {}, {11: 0, 12: 1, 21: 0, 22: 1}, id="two teams, one after the other"),
        pytest.param([21, 22], {11: 0, 12: 1}, {21: 0, 22: 1}, id="a second team, while the first waits"),
        pytest.param([11, 12], {11: 1, 12: 0}, {11: 1, 12: 0}, id="who has a core keeps it"),
        pytest.param([11, 31], {11: 0, 12: 1, 13: 1}, {11: 0, 31: 0}, id="where the fewest are"),
        pytest.param([], {11: 0}, {}, id="none"),
    ],
)
def test_each_thread_of_a_team_has_another_core(
    threads: list[int], kept: dict[int, int], cores: dict[int, int]
) -> None:
    assert cores_of_threads([0, 1], threads, kept) == cores


def test_threads_keep_their_cores_until_they_are_let_go_of(threads: list[int]) -> None:
    placement = Placement(CORES)
    placement.keep(threads)
    assert [os.sched_getaffinity(thread) for thread in threads] == [{core} for core in sorted(CORES)]
    placement.release()
    assert [os.sched_getaffinity(thread) for thread in threads] == [CORES] * len(CORES)


def test_a_thread_that_was_started_by_one_that_is_kept_is_free(threads: list[int]) -> None:
    placement, own = Placement(CORES), threading.get_native_id()
    os.sched_setaffinity(own, {min(CORES)})  # as it inherits it
    try:
        placement.keep(threads)
        assert os.sched_getaffinity(own) == CORES
    finally:
        placement.release()


def test_a_fork_of_a_thread_that_is_kept_is_free() -> None:
    placement, own = Placement(CORES), threading.get_native_id()
    try:
        os.sched_setaffinity(own, {min(CORES)})
        child = os.fork()
        if child == 0:
            os._exit(0 if os.sched_getaffinity(0) == CORES else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        placement.release()


@pytest.mark.skipif(len(CORES) < 2, reason="one core is everybody's")
def test_fewer_threads_than_cores_are_left_to_the_kernel(threads: list[int]) -> None:
    Placement(CORES).keep(threads[1:])
    assert [os.sched_getaffinity(thread) for thread in threads] == [CORES] * len(CORES)


def test_a_thread_that_has_ended_is_no_fault(threads: list[int], tmp_path: Path) -> None:
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    assert ended.native_id is not None
    placement = Placement(CORES)
    placement.keep([*threads, ended.native_id])
    placement.keep(threads)
    placement.release()
    assert os.sched_getaffinity(threads[0]) == CORES
