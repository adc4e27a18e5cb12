"""On which cores threads compute that wait for one another, while others want the cores too.

The threads of a team, one a core, go on when the last of them is ready. Beside other work each of them waits for its core again
and again, and all of them for whoever waits longest. So they leave to the others the cores that they can't have anyway, and
share the rest among themselves:

    apart       core 0 | a x a x a x |     core 1 | x b x b x b |     each has half of a core, seldom both at a time
    together    core 0 | a b a b a b |     core 1 | x y x y x y |     the kernel moves others to where nobody is

Once the cores that were left are idle, all are taken again. Which ones are kept is drawn: of two processes that do this and
have drawn the same, both find the others idle, and draw again. How many threads compute stays as it is, and so do the results,
to the bit.
"""

import os
import random
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

TASKS = Path("/proc/self/task")
STAT = Path("/proc/stat")
MOST_SHARE = 0.6
"""Of the time in which threads want a core, that in which they have one: above it they stay on all cores."""
IDLE_SHARE = 0.25
"""Of the time of the cores that were left to others, that in which nobody ran there: from it on the others have gone."""


def cores_to_keep(cores: int, share: float) -> int:
    """Return of how many cores a team keeps to, so that each has equally many of its threads.

    share: of the time in which its threads, one a core, want to run, that in which they do.
    """
    if share > MOST_SHARE:
        return cores
    return max(1, cores // round(1 / max(share, 1 / cores)))


def idle_s(cores: Collection[int], stat: Path = STAT) -> float:
    """Return for how long these cores have been idle since the machine started, all together; 0 where nobody says."""
    names, ticks = {f"cpu{core}" for core in cores}, 0
    with suppress(OSError, ValueError, IndexError):
        for line in stat.read_text().splitlines():
            words = line.split()
            if words and words[0] in names:
                ticks += int(words[4]) + int(words[5])  # idle, and idle while a disk is waited for
    return ticks / os.sysconf("SC_CLK_TCK")


class FewerCores:
    """Keeps all threads of this process to some of its cores while others want the rest. Its forks run on all of them."""

    def __init__(self, cores: Collection[int]) -> None:
        self._cores = sorted(cores)
        self._left: list[int] = []
        self._idle_s = 0.0
        os.register_at_fork(after_in_child=partial(os.sched_setaffinity, 0, self._cores))

    @property
    def is_on_all(self) -> bool:
        """Whether no core is left to others."""
        return not self._left

    def look(self, share: float, passed_s: float) -> None:
        """Leave cores to others, or take them again. share: as `cores_to_keep`; passed_s: since the last look."""
        if self.is_on_all:
            self._leave(len(self._cores) - cores_to_keep(len(self._cores), share))
            return
        before_s, self._idle_s = self._idle_s, idle_s(self._left)
        if self._idle_s - before_s >= IDLE_SHARE * passed_s * len(self._left):
            self.take_all()

    def _leave(self, count: int) -> None:
        first = random.randrange(len(self._cores))
        left = (self._cores * 2)[first : first + count]
        self._idle_s = idle_s(left)
        if self._idle_s:  # else nobody would say when they are idle again
            self._left = left
            _allow([core for core in self._cores if core not in self._left])

    def take_all(self) -> None:
        """Run on all cores again."""
        if not self.is_on_all:
            self._left = []
            _allow(self._cores)


def _allow(cores: Collection[int]) -> None:
    for name in os.listdir(TASKS):
        with suppress(OSError):  # it has ended meanwhile
            os.sched_setaffinity(int(name), cores)
