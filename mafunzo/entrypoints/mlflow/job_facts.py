"""A job's facts for MLflow's view, besides its metrics: `job.json` in the job's folder, written by the control plane."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mafunzo.tracking.atomic_json import write_text

FILE = "job.json"


@dataclass(frozen=True)
class StepFacts:
    """A step as people see it. `status` is a `StepStatus`; times are epoch seconds; `parameters` its literal inputs.

    is_users: its component is the user's own, which may log into the run while it runs.
    """

    name: str
    status: str
    attempt: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_users: bool = False

    @property
    def may_run(self) -> bool:
        return self.status in ("waiting", "running")


@dataclass(frozen=True)
class JobFacts:
    """A job as people see it. `status` is a `JobStatus`; times are epoch seconds; `parameters` its literal inputs."""

    name: str
    experiment: str
    display_name: str = ""
    status: str = "running"
    created_by: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[StepFacts, ...] = ()

    @property
    def is_one_command(self) -> bool:
        """Whether the job is one step of the user's own, so that both share a run."""
        return len(self.steps) == 1 and self.steps[0].is_users


def write_job_facts(jobs: Path, facts: JobFacts) -> bool:
    """Write `<jobs>/<job>/job.json` atomically if it changed; returns whether it did. Idempotent.

    The file of a job that has ended is as old as that, so that the view sees which ended last without reading all.
    """
    folder = jobs / facts.name
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(facts), indent=1, ensure_ascii=False)
    path = folder / FILE
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    if facts.ended_at is not None:
        os.utime(path, (facts.ended_at, facts.ended_at))
    return True


def is_written(jobs: Path, name: str, status: str) -> bool:
    """Return whether a job's facts are written with that status."""
    try:
        return read_job_facts(jobs / name).status == status
    except (OSError, ValueError, TypeError, KeyError):  # none yet, or of another version
        return False


def read_job_facts(folder: Path) -> JobFacts:
    """Read a job's `job.json`."""
    body = json.loads((folder / FILE).read_text(encoding="utf-8"))
    steps = tuple(StepFacts(**step) for step in body.pop("steps"))
    return JobFacts(**body, steps=steps)
