"""What holds for every test: processes and threads that wait for one another do it asleep, and folders of tests share the cores."""

import gc
import os
import sys

import pytest
from xdist.remote import Producer
from xdist.workermanage import WorkerController

from tests.support.worker_crash import FileScheduling, ending

MAX_WORKERS = 8
"""A worker takes some 600 MB: it imports torch and the SDKs that are clients in tests."""

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; several tests share the cores
gc.disable()  # until all tests are collected: their imports leave next to no garbage, and searching it took a quarter of their time


def pytest_collection_finish() -> None:
    """Take what the imports left out of the garbage collector's sight: it would go through torch's and transformers' objects often."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes that run folders of tests, one more than there are cores; 0 for files and single tests."""
    paths = [argument.partition("::")[0] for argument in config.args]
    return min(len(os.sched_getaffinity(0)) + 1, MAX_WORKERS) if any(map(os.path.isdir, paths)) else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """Return what hands out files of tests to processes, also once one of them has died."""
    return FileScheduling(config, log)


def pytest_testnodedown(node: WorkerController, error: object) -> None:
    """Tell how a process ended that wasn't told to."""
    if error:
        print(f"\n{node.gateway.id}: {ending(node)}", file=sys.__stderr__)
