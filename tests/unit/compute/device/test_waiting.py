"""When OpenMP's threads wait asleep, and that libgomp really lets them."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mafunzo.compute.device.waiting import QUIET_LOOKS, RunTime, Watch, run_time

QUIET, BUSY, BETWEEN = RunTime(1.0, 0.01), RunTime(0.5, 0.5), RunTime(0.93, 0.07)


def looked(*looks: RunTime) -> Watch:
    """Return what is known after looks between which threads ran and waited for so long."""
    watch, ran_s, waited_s = Watch(), 0.0, 0.0
    for look in looks:
        ran_s, waited_s = ran_s + look.ran_s, waited_s + look.waited_s
        watch = watch.after(RunTime(ran_s, waited_s))
    return watch


@pytest.mark.parametrize(
    ("looks", "is_busy"),
    [
        pytest.param([], False, id="nothing seen"),
        pytest.param([QUIET] * 3, False, id="quiet"),
        pytest.param([QUIET, BUSY], True, id="others want the cores"),
        pytest.param([BETWEEN] * 3, False, id="a little, on a quiet machine"),
        pytest.param([BUSY, *[BETWEEN] * 10], True, id="a little, on a busy one"),
        pytest.param([BUSY, *[QUIET] * (QUIET_LOOKS - 1)], True, id="quiet for a moment"),
        pytest.param([BUSY, *[QUIET] * QUIET_LOOKS], False, id="quiet for long"),
        pytest.param([BUSY, *[QUIET] * (QUIET_LOOKS - 1), BUSY, QUIET], True, id="busy again"),
        pytest.param([BUSY, *[RunTime(0.001, 0.0)] * 20], True, id="idle threads tell nothing"),
    ],
)
def test_a_machine_is_busy_while_threads_wait_for_cores(looks: list[RunTime], is_busy: bool) -> None:
    assert looked(*looks).is_busy == is_busy


def test_a_thread_that_ended_makes_no_difference() -> None:
    watch = Watch(RunTime(10.0, 5.0), is_busy=True).after(RunTime(2.0, 0.0))
    assert watch == Watch(RunTime(2.0, 0.0), is_busy=True)


def test_the_share_of_the_time_in_which_threads_have_a_core_is_told() -> None:
    assert looked(QUIET, RunTime(0.3, 0.1)).share == pytest.approx(0.75)


def test_times_of_all_threads_are_added_up(tmp_path: Path) -> None:
    for task, text in {"1": "2000000000 500000000 7\n", "2": "1000000000 0 1\n", "3": "nonsense\n"}.items():
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(text)
    assert run_time(tmp_path) == RunTime(3.0, 0.5)
    assert run_time(tmp_path / "none") == RunTime()


PROGRAM = """
    import os, threading, time
    {before}
    import torch
    from mafunzo.compute.device import waiting

    torch.set_num_threads(2)
    torch.ones(10**6).add_(1)
    count = lambda: len(os.listdir("/proc/self/task"))
    waiting.LOOK_S = 0.01
    moment = {{"s": 0.0}}

    def seen():
        moment["s"] += 1.0
        return waiting.RunTime(moment["s"], moment["s"] if is_busy else waited)

    is_busy, waited = False, 0.0
    waiting.run_time = seen
    waiting.watch(leaves_cores=True)

    def until(condition):
        while not condition():
            time.sleep(0.01)

    names = lambda: [thread.name for thread in threading.enumerate()]
    quiet = count()
    if "waiting" not in names():
        print("no watch")
        raise SystemExit
    is_busy = True
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    until(lambda: count() >= quiet + 1 + cores)  # Python's thread, and as many of libgomp's as there are cores
    print("more threads than cores")
    until(lambda: len(os.sched_getaffinity(0)) == max(1, cores // 2))
    print("on half of the cores")
    is_busy, waited = False, moment["s"]
    until(lambda: count() <= quiet and len(os.sched_getaffinity(0)) == cores)
    print("gone")
"""


@pytest.mark.parametrize(
    ("before", "printed"),
    [
        pytest.param(
            "os.environ.pop('OMP_WAIT_POLICY', None)",
            ["more threads than cores", "on half of the cores", "gone"],
            id="nothing is set",
        ),
        pytest.param(
            "os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'", ["no watch"], id="a policy is set", marks=pytest.mark.slow
        ),
    ],
)
def test_libgomp_has_more_threads_than_cores_while_the_machine_is_busy(before: str, printed: list[str]) -> None:
    program = textwrap.dedent(PROGRAM.format(before=before))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == printed, done.stderr
