"""Tests of `mafunzo.cgroup`: limits of this process's group and of those above it, in both versions of control groups."""

import os
from pathlib import Path

import pytest

from mafunzo import cgroup


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_limits_of_version_2_are_those_of_the_own_group_and_above(root: Path) -> None:
    (root / "membership").write_text("0::/outer/inner\n")
    write(root / "outer" / "inner", memory__max="max\n", cpu__max="150000 100000\n")
    stat = "anon 5\ninactive_file 30\nactive_file 2\n"
    write(root / "outer", memory__max="1000\n", memory__current="430\n", memory__stat=stat, cpu__max="max 100000\n")
    assert list(cgroup.memory_limits()) == [(1000, 400)]
    assert list(cgroup.cpu_limits()) == [1.5]


def test_limits_of_version_1_are_those_of_each_controller_s_own_group(root: Path) -> None:
    (root / "membership").write_text("9:memory:/a/b\n4:cpu,cpuacct:/c\n0::/\n")
    stat = "inactive_file 1\ntotal_inactive_file 20\n"
    write(
        root / "memory" / "a" / "b",
        memory__limit_in_bytes="500",
        memory__usage_in_bytes="120",
        memory__stat=stat,
    )
    write(root / "memory", memory__limit_in_bytes="9000", memory__usage_in_bytes="10")
    write(root / "cpu" / "c", cpu__cfs_quota_us="50000", cpu__cfs_period_us="25000")
    write(root / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert list(cgroup.memory_limits()) == [(500, 100), (9000, 10)]
    assert list(cgroup.cpu_limits()) == [2.0]


@pytest.mark.parametrize(
    "membership", [None, "", "0::/\n"], ids=["another system", "no group", "the root, without limits"]
)
def test_without_limits_there_are_none(root: Path, membership: str | None) -> None:
    if membership is not None:
        (root / "membership").write_text(membership)
    assert [*cgroup.memory_limits(), *cgroup.cpu_limits()] == []


@pytest.mark.parametrize(("quota", "cores"), [("max", 4), ("800000", 4), ("250000", 3), ("150000", 2), ("20000", 1)])
def test_cores_are_those_of_the_affinity_and_no_more_than_the_quota(
    quota: str, cores: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    (root / "membership").write_text("0::/own\n")
    write(root / "own", cpu__max=f"{quota} 100000\n")
    assert cgroup.usable_cpus() == cores


@pytest.mark.parametrize(
    ("membership", "files", "kills"),
    [
        pytest.param(
            "0::/a/b\n", {"a/b/memory.events": "oom 4\noom_kill 3\n", "a/memory.events": "oom_kill 9"}, 3, id="v2"
        ),
        pytest.param("4:memory:/a\n", {"memory/a/memory.oom_control": "under_oom 0\noom_kill 2\n"}, 2, id="v1"),
        pytest.param("4:memory:/a\n", {"memory/a/memory.oom_control": "under_oom 0\n"}, 0, id="an old kernel"),
        pytest.param("0::/\n", {}, 0, id="the root, which has no count"),
    ],
)
def test_what_the_kernel_ended_for_memory_is_counted_in_the_own_group(root: Path, membership, files, kills) -> None:
    (root / "membership").write_text(membership)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert cgroup.oom_kills() == kills
