"""What a container or an affinity mask leaves of the machine."""

import os
from pathlib import Path

import psutil
import pytest

from mafunzo import cgroup
from mafunzo.control.launcher.hardware import capacity, hardware
from mafunzo.entities.compute import Hardware
from mafunzo.entities.job import Resources


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("0::/outer/inner\n")
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    return tmp_path


def test_this_machine_has_cores_and_memory() -> None:
    found = hardware()
    assert 1 <= found.cpus <= len(os.sched_getaffinity(0))
    assert 0 < found.memory_mb <= psutil.virtual_memory().total // 2**20


def test_the_narrowest_limit_of_the_control_groups_above_counts(groups: Path) -> None:
    (groups / "outer" / "memory.max").write_text("104857600\n")
    (groups / "outer" / "inner" / "memory.max").write_text("max\n")
    (groups / "outer" / "inner" / "cpu.max").write_text("100000 100000\n")
    assert (hardware().cpus, hardware().memory_mb) == (1, 100)


def test_half_a_core_is_one(groups: Path) -> None:
    (groups / "outer" / "cpu.max").write_text("20000 100000\n")
    assert hardware().cpus == 1


def test_gpus_are_named_by_the_driver_s_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A100 80GB'\necho 'NVIDIA A100 80GB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert hardware().gpus == ("NVIDIA A100 80GB",) * 2


def test_a_driver_that_does_not_answer_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert hardware().gpus == ()


def test_capacity_counts_what_hardware_names() -> None:
    assert capacity(Hardware(8, 1000, ("a", "b"))) == Resources(cpus=8, gpus=2, memory_mb=1000)
