"""kill -9 of the scheduler, of a step, or of both, at any moment, loses nothing. `make soak` runs fifty storms."""

import json
import platform
import subprocess
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults.storm import REPOSITORY, rage

RESULTS = REPOSITORY / "benchmarks" / "results" / "soak_kill.json"


@pytest.mark.parametrize("seed", range(5))
def test_a_storm_of_kills_loses_nothing(tmp_path: Path, seed: int) -> None:
    storm = rage(tmp_path / "home", seed, kills=8)
    assert storm.faults == []


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_fifty_storms_lose_nothing(tmp_path: Path) -> None:
    storms = [rage(tmp_path / f"home-{seed}", seed, kills=20) for seed in range(1000, 1050)]
    kills: Counter[str] = sum((storm.kills for storm in storms), Counter())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    result = {
        "what": "kill -9 of the scheduler, of steps, of both, while jobs of three steps run; faults must be empty",
        "commit": commit.stdout.strip(),
        "machine": f"{platform.system()} {platform.machine()}, {platform.python_version()}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "storms": len(storms),
        "kills": dict(kills),
        "jobs": sum(storm.jobs for storm in storms),
        "attempts": sum(storm.attempts for storm in storms),
        "faults": {storm.seed: storm.faults for storm in storms if storm.faults},
        "each": [asdict(storm) for storm in storms],
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    assert result["faults"] == {}
