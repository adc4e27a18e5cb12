"""A control group (cgroup) of a test's own, which bounds the memory of the processes in it as a small machine or a container."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mafunzo import cgroup


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A control group of this machine with a limit, of whichever version; skips where none can be made."""
    limits = (cgroup.ROOT / "memory", "memory.limit_in_bytes"), (cgroup.ROOT, "memory.max")
    root, name = next((pair for pair in limits if (pair[0] / "cgroup.procs").exists()), (None, ""))
    group = None if root is None else root / f"mafunzo-test-{os.getpid()}"
    try:
        if group is None:
            pytest.skip("this machine has no control groups")
        group.mkdir()
        (group / name).write_text(str(limit_bytes))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()
