"""Tests of `mafunzo.compute.device.memory`: the machine's free memory, or what a container leaves of it."""

import psutil
import pytest
import torch

from mafunzo import cgroup
from mafunzo.compute.device.memory import free_bytes

CPU = torch.device("cpu")


def test_no_more_is_free_than_the_machine_has() -> None:
    assert 0 < free_bytes(CPU) < psutil.virtual_memory().total


def test_the_narrowest_group_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "memory_limits", lambda: iter([(1000, 400), (900, 500), (2**62, 5)]))
    assert free_bytes(CPU) == 400
