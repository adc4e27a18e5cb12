"""kill -9 of the scheduler, of a step, or of both, at any moment, loses nothing. `make soak` runs fifty storms."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.result import write_result
from tests.faults.storm import REPOSITORY, changes_of_a_job, die_at_change, rage

DISK_MB = 640
"""Of a small disk: no step starts with fewer than 512 MB free."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_storm_of_kills_loses_nothing(tmp_path: Path, seed: int) -> None:
    storm = rage(tmp_path / "home", seed, kills=8)
    assert storm.faults == []


@pytest.mark.slow
def test_a_scheduler_may_die_at_any_change_that_it_makes(tmp_path: Path) -> None:
    changes, rng = changes_of_a_job(tmp_path / "count"), random.Random(0)
    for number in rng.sample(range(1, changes + 1), 6):
        delay_ms = rng.choice([0.0, 5.0])
        faults = die_at_change(tmp_path / str(number), number, delay_ms)
        assert faults == [], f"change {number} of {changes}, {delay_ms} ms after"


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_a_scheduler_may_die_at_every_change_that_it_makes(tmp_path: Path) -> None:
    changes = changes_of_a_job(tmp_path / "count")
    faults = {n: told for n in range(1, changes + 1) if (told := die_at_change(tmp_path / str(n), n, 0.0))}
    what = "a scheduler dies at each change that it makes for one job"
    write_result("soak_kill_at_every_change", what, {"faults": faults, "changes": changes})
    assert faults == {}


@pytest.mark.slow
def test_a_storm_on_a_disk_that_is_full_now_and_then_loses_nothing(tmp_path: Path, namespace: list[str]) -> None:
    storm = rage_on_a_full_disk(tmp_path, namespace, 0, kills=6)
    assert storm["faults"] == [] and storm["fillings"] > 0


@pytest.mark.slow
def test_a_storm_beside_a_busy_machine_loses_nothing(tmp_path: Path) -> None:
    with busy_cores():
        assert rage(tmp_path / "home", 0, kills=4).faults == []


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_storms_on_a_disk_that_is_full_now_and_then_lose_nothing(tmp_path: Path, namespace: list[str]) -> None:
    storms = [rage_on_a_full_disk(tmp_path / str(seed), namespace, seed, kills=20) for seed in range(2000, 2020)]
    faults = {storm["seed"]: storm["faults"] for storm in storms if storm["faults"]}
    what = "kill -9 of the scheduler, of steps, of both, on a disk that is full now and then"
    write_result("soak_full_disk", what, {"faults": faults, "storms": len(storms), "each": storms})
    assert faults == {}


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_storms_beside_a_busy_machine_lose_nothing(tmp_path: Path) -> None:
    with busy_cores():
        storms = [rage(tmp_path / f"home-{seed}", seed, kills=20) for seed in range(3000, 3020)]
    faults = {storm.seed: storm.faults for storm in storms if storm.faults}
    what = "kill -9 of the scheduler, of steps, of both, beside one busy process a core"
    write_result("soak_busy", what, {"faults": faults, "storms": len(storms), "each": [vars(one) for one in storms]})
    assert faults == {}


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_fifty_storms_lose_nothing(tmp_path: Path) -> None:
    storms = [rage(tmp_path / f"home-{seed}", seed, kills=20) for seed in range(1000, 1050)]
    kills: Counter[str] = sum((storm.kills for storm in storms), Counter())
    faults = {storm.seed: storm.faults for storm in storms if storm.faults}
    found = {
        "faults": faults,
        "storms": len(storms),
        "kills": dict(kills),
        "jobs": sum(storm.jobs for storm in storms),
        "attempts": sum(storm.attempts for storm in storms),
        "each": [vars(storm) for storm in storms],
    }
    write_result("soak_kill", "kill -9 of the scheduler, of steps, of both, while jobs of three steps run", found)
    assert faults == {}


@contextmanager
def busy_cores() -> Iterator[None]:
    """Have one process a core that never rests."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def rage_on_a_full_disk(folder: Path, namespace: list[str], seed: int, kills: int) -> dict[str, Any]:
    """Have a storm on a file system of its own, which goes with the process; return what happened."""
    (disk := folder / "disk").mkdir(parents=True)
    mount_then = f'mount -t tmpfs -o size={DISK_MB}m tmpfs "$1" && shift && exec "$@"'
    argv = [sys.executable, "-m", "tests.faults.storm", str(disk / "home"), str(seed), str(kills)]
    command = [*namespace, "sh", "-c", mount_then, "sh", str(disk), *argv]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    storm: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return storm
