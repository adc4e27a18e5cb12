"""Rows prepared in processes, one a core: preparing is Python's work, and threads would wait for one another.

A process is a copy (fork) of this one with the tokenizer loaded, so that it starts at once; blocks of rows go to it and what
they gave comes back, in order. Few blocks are under way at a time, so that memory doesn't grow with the rows.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from mafunzo.cgroup import usable_cpus
from mafunzo.compute.chat.row_cache import Block, RowCache, blocks
from mafunzo.compute.chat.rows import PreparedRow, RowPreparer
from mafunzo.dataset.files import RawRow

ROWS_A_WORKER = 1000
"""Fewer rows are prepared sooner than another process has started."""
BLOCKS_A_WORKER = 3
"""Blocks that are under way for each process: one that it works on, and the next ones."""
_PR_SET_PDEATHSIG = 1

Result = Callable[[], list[PreparedRow]]
"""Waits for what a block of rows gives, and returns it."""


@dataclass(frozen=True)
class Work:
    """What prepares blocks of rows, and where their results are kept, if they are."""

    preparer: RowPreparer
    cache: RowCache | None = None

    def prepare(self, block: Block) -> list[PreparedRow]:
        """Return what the rows of a block give, and keep it."""
        rows = self.preparer.prepare(block.rows)
        if self.cache is not None and block.key is not None:
            self.cache.put(block.key, rows)
        return rows


_work: Work | None = None
"""Of a process that prepares rows for another."""


def worker_count(rows: int) -> int:
    """Return how many processes prepare so many rows; 0 where this one does.

    A step that holds fewer cores than the machine has is told by OpenMP's variable, as its libraries are.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    cores = min(usable_cpus(), int(threads)) if threads.isdecimal() and int(threads) else usable_cpus()
    count = min(cores, rows // ROWS_A_WORKER)
    return count if count > 1 and sys.platform == "linux" else 0


@contextmanager
def preparation(
    work: Work, workers: int
) -> Iterator[Callable[[Iterable[RawRow]], Iterator[tuple[RawRow, PreparedRow]]]]:
    """Give a function that yields each row with what it gives: from the cache, from `workers` processes, or made here."""
    with _submission(work, workers) as submit:
        yield partial(_prepared, work.cache, submit, workers * BLOCKS_A_WORKER)


def _prepared(
    cache: RowCache | None, submit: Callable[[Block], Result], most_waiting: int, raw_rows: Iterable[RawRow]
) -> Iterator[tuple[RawRow, PreparedRow]]:
    waiting: deque[tuple[Block, Result]] = deque()
    for block in blocks(raw_rows):
        known = cache.get(block.key) if cache is not None and block.key is not None else None
        waiting.append((block, submit(block) if known is None else partial(list, known)))
        if len(waiting) > most_waiting:
            yield from _pairs(*waiting.popleft())
    for block, result in waiting:
        yield from _pairs(block, result)


def _pairs(block: Block, result: Result) -> Iterator[tuple[RawRow, PreparedRow]]:
    return zip(block.rows, result(), strict=True)


@contextmanager
def _submission(work: Work, workers: int) -> Iterator[Callable[[Block], Result]]:
    if not workers:
        yield lambda block: partial(work.prepare, block)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(), work))
    try:
        yield lambda block: pool.submit(_prepare, block).result
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int, work: Work) -> None:
    """Have this process end with the one that it is for, also where that is killed, and leave signals and cores to it."""
    global _work
    _work = work
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _prepare(block: Block) -> list[PreparedRow]:
    assert _work is not None
    return _work.prepare(block)
