"""What a container or an affinity mask leaves of the machine."""

import os
from pathlib import Path

import psutil
import pytest

from mafunzo import cgroup
from mafunzo.compute.device import precision
from mafunzo.control.launcher.hardware import capacity, half_formats, hardware
from mafunzo.entities.compute import HalfFormats, Hardware
from mafunzo.entities.job import Resources

GB = 10**9
COMPUTED = HalfFormats(computed=frozenset({"bfloat16"}))
CONVERTED = HalfFormats(converted=frozenset({"bfloat16"}))


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


@pytest.mark.parametrize(
    ("cpuinfo", "formats"),
    [
        pytest.param(
            "flags : avx2 avx512f avx512bw avx512vl avx512dq avx512_bf16\n", COMPUTED, id="AVX-512 with bfloat16"
        ),
        pytest.param("flags\t\t: avx2 avx512f avx512bw avx512vl avx512dq\n" * 2, CONVERTED, id="AVX-512"),
        pytest.param("flags : avx2 fma\n", HalfFormats(), id="AVX2 only"),
        pytest.param("flags : avx512f avx512bw\n", HalfFormats(), id="half of AVX-512"),
        pytest.param("flags : avx2 avx_ne_convert\n", CONVERTED, id="AVX2 that converts"),
        pytest.param("Features : asimd bf16\n", COMPUTED, id="ARM with bfloat16"),
        pytest.param("Features : asimd bf16\nFeatures : asimd\n", HalfFormats(), id="some cores only"),
        pytest.param("", HalfFormats(), id="unknown"),
    ],
)
def test_a_cpu_computes_the_16_bit_formats_of_its_instructions(
    cpuinfo: str, formats: HalfFormats, tmp_path: Path
) -> None:
    (file := tmp_path / "cpuinfo").write_text(cpuinfo)
    assert half_formats(False, file) == formats
    assert half_formats(False, tmp_path / "none") == HalfFormats()
    assert half_formats(True, file) == HalfFormats(frozenset({"bfloat16", "float16"}))


def test_what_is_converted_is_held_as_stored_only_where_float32_would_leave_too_little_memory() -> None:
    assert CONVERTED.held(half_bytes=2 * GB, memory_bytes=8 * GB) == frozenset()
    assert CONVERTED.held(half_bytes=3 * GB, memory_bytes=8 * GB) == {"bfloat16"}
    assert COMPUTED.held(half_bytes=1, memory_bytes=8 * GB) == {"bfloat16"}
    assert HalfFormats().held(half_bytes=3 * GB, memory_bytes=8 * GB) == frozenset()


def test_a_worker_on_this_machine_computes_what_is_expected_of_it() -> None:
    assert half_formats(has_gpu=False) == precision.half_formats()
