"""Which core each thread that computes keeps while the machine is busy.

The threads of a team wait for one another thousands of times a second. Beside other work the kernel puts now two of them on one
core, now one behind a thread of others on another, and the team goes on when the last of them has run:

    free    core 0 | a a b b a b |     core 1 | x x x x x x |      a, b: our two threads      x, y: others'
    kept    core 0 | a x a x a x |     core 1 | b y b y b y |      both run at the same time

So each thread keeps a core of its own, as OMP_PROC_BIND would have it, but only as long as others want the cores too: alone,
the kernel does as well, and a thread that is kept to one core can't make room for what comes next.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

TASKS = Path("/proc/self/task")


def cores_of_threads(cores: Sequence[int], threads: Iterable[int], kept: Mapping[int, int]) -> dict[int, int]:
    """Return the core of each thread (by the kernel's number for it): its own in `kept`, else one that the fewest others have.

    A team's threads are started one after the other, so that their numbers in order make them neighbours, each on another core.
    """
    placed = {thread: kept[thread] for thread in threads if thread in kept}
    taken = [*kept.values()]
    for thread in sorted(set(threads) - set(kept)):
        placed[thread] = min(cores, key=taken.count)
        taken.append(placed[thread])
    return placed


class Placement:
    """Keeps threads of this process to cores, until they are let go of. Its forks are free of that."""

    def __init__(self, cores: Collection[int]) -> None:
        self._cores = sorted(cores)
        self._kept: dict[int, int] = {}
        os.register_at_fork(after_in_child=partial(os.sched_setaffinity, 0, self._cores))

    def keep(self, threads: Collection[int]) -> None:
        """Keep these threads to a core each, beside those that are kept already, if they are as many as a team has.

        Fewer threads than cores are left to the kernel: there may be a core that nobody wants.
        """
        living = _threads()
        self._kept = {thread: core for thread, core in self._kept.items() if thread in living}
        if len(threads) >= len(self._cores):
            self._kept |= cores_of_threads(self._cores, threads, self._kept)
        for thread in living:  # also those that a kept one has started, which inherit its core
            _allow(thread, {self._kept[thread]} if thread in self._kept else self._cores)

    def release(self) -> None:
        """Let all threads run on all cores again."""
        self._kept.clear()
        for thread in _threads():
            _allow(thread, self._cores)


def _threads() -> set[int]:
    return {int(name) for name in os.listdir(TASKS)}


def _allow(thread: int, cores: Collection[int]) -> None:
    with suppress(OSError):  # it has ended meanwhile
        if os.sched_getaffinity(thread) != set(cores):
            os.sched_setaffinity(thread, cores)
