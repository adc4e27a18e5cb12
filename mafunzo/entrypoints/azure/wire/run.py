"""Jobs and their steps as runs of the run history: their state, errors, logs and outputs."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from mafunzo.entities.job import Job, Step, StepStatus
from mafunzo.entities.sweep import BEST_TRIAL, BEST_VALUE
from mafunzo.entrypoints.azure.wire.envelope import echo_of, own_resource
from mafunzo.entrypoints.azure.wire.finetuning import FINE_TUNING

LOGS = {
    "Command": "user_logs/std_log.txt",
    "Pipeline": "logs/azureml/executionlogs.txt",
    "Sweep": "azureml-logs/hyperdrive.txt",
    FINE_TUNING: "user_logs/std_log.txt",
}
"""What a client prints of a job while it runs, by the kind of the job."""
_CLIENT = re.compile(r"\bazure-ai-ml/(\d+)\.(\d+)")
_STATUS: Mapping[str, str] = {
    StepStatus.WAITING: "NotStarted",
    StepStatus.CACHED: "Completed",
    StepStatus.SKIPPED: "Canceled",
}
"""Azure's words for the states that it calls otherwise."""


def status_of(entity: Job | Step) -> str:
    """Return Azure's word for the state of a job or step."""
    is_ending = isinstance(entity, Job) and entity.is_cancel_requested and not entity.status.is_terminal
    if (
        isinstance(entity, Step)
        and entity.spec.sweep is not None
        and entity.started_at
        and not entity.status.is_terminal
    ):
        return StepStatus.RUNNING.capitalize()  # its trials do
    return "CancelRequested" if is_ending else _STATUS.get(entity.status, entity.status.capitalize())


def kind_of(job: Job) -> str:
    """Return Azure's word for what kind of a job it is; another entrypoint's is a pipeline."""
    return str((echo_of(job.echoes).get("properties") or {}).get("jobType") or "Pipeline")


def artifact_path(name: str) -> str:
    """Return the path in the artifact store of a job's, or a step's, log and files besides outputs."""
    return f"ExperimentRun/dcid.{name}"


def output_path(name: str, output: str) -> str:
    """Return the path in the home's datastore of an output of a job, or of a step."""
    return f"azureml/{name}/{output}"


def output_id(job: str, output: str) -> str:
    """Return the id of a job's output."""
    return f"azureml://jobs/{job}/outputs/{output}"


def child_name(step: Step) -> str:
    """Return a step's name as a child job."""
    return f"{step.job}.{step.name}"


def child_body(step: Step) -> dict[str, Any]:
    """Return a step as a child job's GET answer: without properties, which sends the client to the run history."""
    return own_resource("jobs", child_name(step), properties={}) | {"properties": None}


def run_body(job: Job) -> dict[str, Any]:
    """Return a job as a run of the run history."""
    return _run(job.name, job, job, job.display_name) | {"tags": dict(job.tags), "hidden": job.is_archived}


def children_of(steps: Iterable[Step], parent: Step | None) -> list[Step]:
    """Return the children of a job, or of a step of it that is a sweep: each sweep has its trials below it."""
    return [step for step in steps if step.spec.trial_of == (parent.name if parent else "")]


def child_run_body(job: Job, step: Step, steps: Iterable[Step] = ()) -> dict[str, Any]:
    """Return a step, one of the job's `steps`, as a child run of the run history."""
    properties = {"azureml.moduleName": step.spec.component, "azureml.parameters": step.reason}
    if step.status is StepStatus.CACHED:  # its reason names the earlier one: `same as job/step`
        reused = step.reason.removeprefix("same as ").replace("/", ".", 1)
        properties |= {"azureml.isreused": "true", "azureml.reusedrunid": reused}
    sweeps = {"": job.sweep} | {one.name: one.spec.sweep for one in steps}
    sweep, parent = sweeps.get(step.spec.trial_of), step.spec.trial_of
    values = {name: step.spec.literals[name] for name in sweep.space} if sweep else {}
    return _run(child_name(step), job, step, step.spec.display_name or step.name) | {
        "parentRunId": f"{job.name}.{parent}" if parent else job.name,
        "rootRunId": job.name,
        "properties": {**properties, **best_of(job.name, step.properties)},
        "tags": {"hyperparameters": json.dumps(values)} if values else {},
    }


def best_of(job: str, properties: Mapping[str, Any]) -> dict[str, str]:
    """Return what is recorded of a sweep's best trial, under the names that the SDK looks for."""
    if BEST_TRIAL not in properties:
        return {}
    return {"best_child_run_id": f"{job}.{properties[BEST_TRIAL]}", "score": str(properties[BEST_VALUE])}


def run_details(job: Job, log: str, is_finalizing: bool = False) -> dict[str, Any]:
    """Return a run's details in the run history; `log` is the address of its log.

    is_finalizing: the job has ended, and its log is still to be shown.
    """
    return {
        "runId": job.name,
        "status": "Finalizing" if is_finalizing else status_of(job),
        "startTimeUtc": _moment(job.started_at),
        "endTimeUtc": _moment(job.ended_at),
        "properties": {},
        "inputDatasets": [],
        "outputDatasets": [],
        "logFiles": {LOGS[kind_of(job)]: log},
        "warnings": [],
        "error": _error(job.error) if job.error else None,
        "submittedBy": job.created_by,
    }


def run_data(name: str, status: str, outputs: Iterable[str], client: str = "") -> dict[str, Any]:
    """Return a run's data in the run history: its state, and its outputs under ids that are resolved to paths.

    An output that is a model is called a folder too: azure-ai-ml 1.35 breaks off before it asks where a model lies. client: its
    User-Agent; releases of azure-ai-ml before 1.35 know a folder by another name, and leave out what has no name they know.
    """
    release = _CLIENT.search(client)
    is_older = release is not None and (int(release[1]), int(release[2])) < (1, 35)
    folder = "UriFolder" if is_older else "uri_folder"
    output_assets = {output: {"assetId": output_id(name, output), "type": folder} for output in outputs}
    return {"runMetadata": {"runId": name, "status": status, "outputs": output_assets}}


def _run(id: str, job: Job, entity: Job | Step, name: str) -> dict[str, Any]:
    return {
        "runId": id,
        "experimentId": job.experiment,
        "status": status_of(entity),
        "displayName": name,
        "createdUtc": _moment(job.created_at),
        "startTimeUtc": _moment(entity.started_at),
        "endTimeUtc": _moment(entity.ended_at),
        "createdBy": {"userName": job.created_by},
        "properties": {},
        "tags": {},
        "services": {},
        "runType": "azureml.StepRun" if id != job.name else "azureml.PipelineRun",
        "error": _error(entity.error) if entity.error else None,
    }


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    faults = [str(fault) for fault in error.get("faults") or ()]
    message = "\n".join([str(error.get("message", "")), *(f"  - {fault}" for fault in faults)])
    return {"error": {"code": "UserError", "message": message, "details": [{"message": fault} for fault in faults]}}


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
