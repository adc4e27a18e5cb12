"""Tests of `mafunzo.compute.device.memory`: the machine's free memory, or what a container leaves of it."""

from pathlib import Path

import psutil
import pytest
import torch

from mafunzo import cgroup
from mafunzo.compute.device.memory import free_bytes, peak_bytes

CPU = torch.device("cpu")


def test_no_more_is_free_than_the_machine_has() -> None:
    assert 0 < free_bytes(CPU) < psutil.virtual_memory().total


def test_the_narrowest_group_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "memory_limits", lambda: iter([(1000, 400), (900, 500), (2**62, 5)]))
    assert free_bytes(CPU) == 400


def test_the_peak_is_the_kernel_s_and_what_is_held_now_where_it_tells_none(tmp_path: Path) -> None:
    (status := tmp_path / "status").write_text("VmPeak:\t  900 kB\nVmHWM:\t    300 kB\nVmRSS:\t  200 kB\n")
    assert peak_bytes(CPU, status) == 300 * 1024
    assert peak_bytes(CPU, tmp_path / "none") > 2**20
    status.write_text("Name:\tpython\n")
    assert peak_bytes(CPU, status) > 2**20
