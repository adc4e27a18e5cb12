"""Assets, jobs and steps to record."""

from dataclasses import replace
from datetime import UTC, datetime

from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.job import (
    Job,
    Step,
    StepSpec,
)

NOON = datetime(2026, 5, 6, 12, 0, 0, 250000, tzinfo=UTC)


def artifact_hash(letter: str) -> str:
    return "sha256:" + letter * 64


def model(name: str = "chat", version: str = "1", **fields: object) -> Asset:
    key = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, name, version)
    return replace(Asset(key, FolderType.MLFLOW_MODEL, artifact_hash("a")), **fields)  # type: ignore[arg-type]


def job_named(name: str = "job", **fields: object) -> Job:
    return replace(Job(name, "A job", "experiment", "pipeline:1"), **fields)  # type: ignore[arg-type]


def step_of(job: str = "job", name: str = "finetune", component: str = "finetune:1", **fields: object) -> Step:
    spec = StepSpec(name, component, "code", "run ${{inputs.x}}")
    return replace(Step(job, spec), **fields)  # type: ignore[arg-type]
