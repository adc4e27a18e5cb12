"""kill -9 of the scheduler, of a step, or of both, at any moment, loses nothing. `make soak` runs fifty storms."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.result import write_result
from tests.faults.storm import changes_of_a_job, die_at_change, rage


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
