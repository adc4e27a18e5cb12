"""How OpenMP's threads wait for one another: awake on a quiet machine, asleep on a busy one.

A product of matrices is shared out to a thread a core, and whoever is ready first waits for the others, thousands of times a
second. GNU's libgomp lets it spin for some milliseconds (a bounded spin, `GOMP_SPINCOUNT`). On a quiet machine that pays, as
going to sleep and being woken takes longer than the wait: asleep, training took 20% longer. Beside other work it ruins: who
spins keeps the core from the very thread that it waits for.

    quiet   thread 0 |####### spins |#### |      thread 1 |######### |#### |       no core is wanted by others
    busy    thread 0 |####### sleeps ...                                           others, and then thread 1, get its core

Which of the two holds is measured: the kernel counts for each thread how long it was ready to run and had no core
(`/proc/self/task/*/schedstat`), which on a quiet machine is next to nothing.

libgomp decides at each wait how long to spin, by a rule that its manual states: where it has more threads than the process has
cores, 100 times instead of 300,000. So a team of threads that do nothing is started as long as the machine is busy, and let go
of afterwards. With another OpenMP, or where its user has set OMP_WAIT_POLICY or GOMP_SPINCOUNT, all stays as it is.
What computes for long also leaves cores to others meanwhile (fewer_cores.py).
"""

import ctypes
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from mafunzo.compute.device.fewer_cores import FewerCores

logger = logging.getLogger(__name__)

TASKS = Path("/proc/self/task")
MAPS = Path("/proc/self/maps")
LOOK_S = 0.5
BUSY_SHARE, QUIET_SHARE = 0.10, 0.04
"""Of the time in which threads wanted to run, that in which they had no core: from which on, and below which it is quiet."""
QUIET_LOOKS = 6
"""So many quiet looks in a row end a busy time."""
LEAST_RUN_S = 0.05
"""Threads that ran for less since the last look tell nothing."""
USERS_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@dataclass(frozen=True)
class RunTime:
    """Seconds that all threads of a process ran, and waited for a core while they were ready to run."""

    ran_s: float = 0.0
    waited_s: float = 0.0


@dataclass(frozen=True)
class Watch:
    """What was seen last: the threads' times, whether the machine is busy, and for how many looks it has been quiet.

    share: of the time in which threads wanted a core since the look before, that in which they had one.
    """

    time: RunTime = RunTime()
    is_busy: bool = False
    quiet_looks: int = 0
    share: float = 1.0

    def after(self, time: RunTime) -> "Watch":
        """Return what is known with one more look."""
        ran_s, waited_s = time.ran_s - self.time.ran_s, time.waited_s - self.time.waited_s
        is_cut = ran_s < 0 or waited_s < 0  # a thread has ended, and its times are gone
        if is_cut or ran_s + waited_s < LEAST_RUN_S:
            return Watch(time, self.is_busy, self.quiet_looks)
        waited = waited_s / (ran_s + waited_s)
        if waited >= BUSY_SHARE:
            return Watch(time, True, 0, 1 - waited)
        quiet_looks = self.quiet_looks + 1 if waited <= QUIET_SHARE else 0
        return Watch(time, self.is_busy and quiet_looks < QUIET_LOOKS, quiet_looks, 1 - waited)


def run_time(tasks: Path = TASKS) -> RunTime:
    """Return the times of this process' threads so far; zeros where the kernel doesn't tell them."""
    ran_ns = waited_ns = 0
    for file in tasks.glob("*/schedstat"):
        try:
            ran, waited, _ = file.read_text().split()
        except (OSError, ValueError):  # a thread that has ended meanwhile
            continue
        ran_ns, waited_ns = ran_ns + int(ran), waited_ns + int(waited)
    return RunTime(ran_ns / 1e9, waited_ns / 1e9)


def watch(leaves_cores: bool = False) -> None:
    """Have threads wait asleep whenever the machine is busy, from now to the end of the process.

    leaves_cores: then they also leave cores to others (fewer_cores.py), which what computes for long gains by, and what answers
    now and then doesn't.
    """
    library = _libgomp()
    if library is None or any(name in os.environ for name in USERS_OWN) or not any(TASKS.glob("*/schedstat")):
        return
    Thread(target=_watch, args=(library, leaves_cores), name="waiting", daemon=True).start()


def _watch(library: ctypes.CDLL, leaves_cores: bool) -> None:
    import torch  # which has loaded the library

    seen, pause = Watch(run_time()), Event()
    crowd: _Crowd | None = None
    all_cores = os.sched_getaffinity(0)
    cores = FewerCores(all_cores)
    while True:
        begun = time.monotonic()
        pause.wait(LOOK_S)
        seen = seen.after(run_time())
        if seen.is_busy and crowd is None:
            logger.debug("The machine is busy: threads wait asleep")
            crowd = _Crowd(library, len(all_cores) + 1)
        elif seen.is_busy and leaves_cores and torch.get_num_threads() >= len(all_cores):
            cores.look(seen.share, time.monotonic() - begun)
        elif not seen.is_busy and crowd is not None:
            logger.debug("The machine is quiet: threads wait awake")
            crowd.leave()
            crowd = None
            cores.take_all()


class _Crowd:
    """A team of OpenMP threads that sleep, with which there are more than cores; its first thread is Python's."""

    def __init__(self, library: ctypes.CDLL, threads: int) -> None:
        self._library, self._threads, self._is_over = library, threads, Event()
        Thread(target=self._stay, name="waiting: crowd", daemon=True).start()

    def leave(self) -> None:
        """Have all of them end."""
        self._is_over.set()

    def _stay(self) -> None:
        nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)  # what each of them does, once
        self._library.GOMP_parallel(nothing, None, self._threads, 0)
        self._is_over.wait()  # libgomp ends a team when its first thread ends


def _libgomp(maps: Path = MAPS) -> ctypes.CDLL | None:
    """Return the one libgomp that is loaded, or None: other systems and builds of torch have another OpenMP, or several."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line}
    return ctypes.CDLL(paths.pop()) if len(paths) == 1 else None
