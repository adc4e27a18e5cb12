"""A home with many past jobs, each with its steps, its metrics and a registered model: written straight into the records."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.codec import encode
from mafunzo.control.store.database import Database
from mafunzo.control.store.home import Home
from mafunzo.control.store.records.asset import _asset_row
from mafunzo.control.store.records.job import _step_row
from mafunzo.control.store.records.row import to_row
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.component import Component, Source
from mafunzo.entities.environment import Environment, environment_facts
from mafunzo.entities.job import (
    ArtifactInput,
    Job,
    JobStatus,
    LiteralInput,
    Step,
    StepOutputInput,
    StepSpec,
    StepStatus,
)
from mafunzo.tracking.step_folder import StepFolder

BEGAN = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
STEPS = ("import_model", "prepare_data", "finetune", "evaluate", "package_model")
VERSIONS = 10
"""How many versions a model's name has."""
POINTS = 20
"""How often a finetune step has logged its loss."""


def add_past_jobs(database: Database, home: Home, jobs: int, *, first: int = 0, has_files: bool = True) -> None:
    """Add jobs that have ended: `past-0` is the oldest. A fifth failed. has_files: with their steps' folders and metrics."""
    numbers = range(first, first + jobs)
    with database.transaction() as connection:
        connection.execute(sa.insert(table.job), [to_row(table.job, _job(number)) for number in numbers])
        connection.execute(
            sa.insert(table.step),
            [
                _step_row(step) | {"position": position}
                for number in numbers
                for position, step in enumerate(_steps(number))
            ],
        )
        assets = [asset for number in numbers for asset in _assets(number)]
        connection.execute(sa.insert(table.asset), [_asset_row(asset) for asset in assets])
    if has_files:
        for number in numbers:
            _write_files(home, number)


def job_name(number: int) -> str:
    """Return what a past job is called."""
    return f"past-{number}"


def _job(number: int) -> Job:
    has_failed = _has_failed(number)
    return Job(
        name=job_name(number),
        display_name=f"tiny on file {number}",
        experiment=f"chat-{number % 7}",
        component="chat_completion_pipeline:1",
        inputs={"learning_rate": 0.0002, "train_file_path": {"artifact": _hash(number, "rows"), "name": "train.jsonl"}},
        outputs={"mlflow_model_folder": StepOutputInput("package_model", "mlflow_model_folder")},
        status=JobStatus.FAILED if has_failed else JobStatus.COMPLETED,
        error={"code": "step_failed", "message": "Step 'package_model' failed."} if has_failed else None,
        tags={"team": str(number % 3)},
        created_by="ada",
        created_at=_moment(number),
        started_at=_moment(number),
        ended_at=_moment(number, 60),
    )


def _steps(number: int) -> Iterator[Step]:
    for position, name in enumerate(STEPS):
        is_last_of_failed = _has_failed(number) and name == STEPS[-1]
        inputs = {
            "learning_rate": LiteralInput(0.0002),
            "seed": LiteralInput(number),
            "data": ArtifactInput(_hash(number, "rows"), "train.jsonl"),
        }
        spec = StepSpec(
            name, f"{name}:1", _hash(0, name), f"python -m {name}", inputs, {"folder": "uri_folder"}, is_trusted=True
        )
        yield Step(
            job_name(number),
            spec,
            StepStatus.FAILED if is_last_of_failed else StepStatus.COMPLETED,
            attempt=1,
            cache_key=_hash(number, f"key of {name}"),
            outputs={} if is_last_of_failed else {"folder": _hash(number, name)},
            reason="it runs for the first time",
            started_at=_moment(number, 10 * position),
            ended_at=_moment(number, 10 * position + 9),
        )


def _assets(number: int) -> Iterator[Asset]:
    """Yield what was registered beside a job: a version of a model and of a data set; of each tenth a component and its kin."""
    model = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, f"tuned-{number // VERSIONS}", str(number % VERSIONS + 1))
    facts = {"job": job_name(number), "base_model": "tiny-llama:1", "rows": 100}
    yield _asset(model, number, FolderType.MLFLOW_MODEL, facts)
    data = AssetKey(WORKSPACE_SCOPE, AssetType.DATA, f"rows-{number}", "1")
    yield _asset(data, number, FolderType.URI_FILE, {"shown_at": f"assets/data/rows-{number}/1/train.jsonl"})
    if number % VERSIONS:
        return
    component = Component(f"step-{number}", "1", "command", description="Says hello.", command="echo hello")
    properties = {"component": encode(component), "source": encode(Source()), "user_properties": {}}
    key = AssetKey(WORKSPACE_SCOPE, AssetType.COMPONENT, component.name, "1")
    yield replace(_asset(key, number, FolderType.URI_FOLDER, properties), artifact=None)
    environment = Environment(f"packages-{number}", "1", packages=("numpy",))
    key = AssetKey(WORKSPACE_SCOPE, AssetType.ENVIRONMENT, environment.name, "1")
    yield replace(_asset(key, number, FolderType.URI_FOLDER, environment_facts(environment)), artifact=None)


def _asset(key: AssetKey, number: int, folder_type: FolderType, properties: dict[str, Any]) -> Asset:
    return Asset(
        key,
        folder_type,
        artifact=_hash(number, str(key)),
        description=f"Of job {number}",
        properties=properties,
        created_by="ada",
        created_at=_moment(number, 60),
    )


def _write_files(home: Home, number: int) -> None:
    for name in STEPS:
        folder = StepFolder.of(home.jobs, job_name(number), name, 1)
        folder.path.mkdir(parents=True)
        folder.log.write_text(f"{name} of {number}\n", encoding="utf-8")
        folder.exit.write_text('{"exit_code": 0}', encoding="utf-8")
        if name == "finetune":
            folder.metrics.write_text("".join(_lines(number)), encoding="utf-8")


def _lines(number: int) -> Iterator[str]:
    moment = _moment(number).timestamp()
    for point in range(1, POINTS + 1):
        yield json.dumps({"time": moment + point, "step": point, "loss": 3.0 - point / 10}) + "\n"


def _has_failed(number: int) -> bool:
    return number % 5 == 4


def _moment(number: int, seconds: int = 0) -> datetime:
    return BEGAN + timedelta(minutes=number, seconds=seconds)


def _hash(number: int, name: str) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(f'{number} {name}'.encode()).hexdigest()}"
