"""kill -9 of the scheduler, of a step, or of both, at any moment, loses nothing. `make soak` runs fifty storms."""

import json
import os
import platform
import random
import subprocess
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.storm import REPOSITORY, changes_of_a_job, die_at_change, rage

RESULTS = REPOSITORY / "benchmarks" / "results"


@pytest.mark.parametrize("seed", range(5))
def test_a_storm_of_kills_loses_nothing(tmp_path: Path, seed: int) -> None:
    storm = rage(tmp_path / "home", seed, kills=8)
    assert storm.faults == []


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
    _write(
        "soak_kill_at_every_change",
        "a scheduler dies at each change that it makes for one job",
        {"changes": changes},
        faults,
    )
    assert faults == {}


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_fifty_storms_lose_nothing(tmp_path: Path) -> None:
    storms = [rage(tmp_path / f"home-{seed}", seed, kills=20) for seed in range(1000, 1050)]
    kills: Counter[str] = sum((storm.kills for storm in storms), Counter())
    faults = {storm.seed: storm.faults for storm in storms if storm.faults}
    counts = {
        "storms": len(storms),
        "kills": dict(kills),
        "jobs": sum(storm.jobs for storm in storms),
        "attempts": sum(storm.attempts for storm in storms),
        "each": [vars(storm) for storm in storms],
    }
    _write("soak_kill", "kill -9 of the scheduler, of steps, of both, while jobs of three steps run", counts, faults)
    assert faults == {}


def _write(name: str, what: str, counts: Mapping[str, Any], faults: Mapping[int, list[str]]) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    result = {
        "what": f"{what}; faults must be empty",
        "commit": commit.stdout.strip(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "faults": faults,
        **counts,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
