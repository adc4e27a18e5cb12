"""Pipeline jobs in Azure's JSON: what a PUT asks for, and what a GET and the run's history answer.

A job of one node that is a pipeline of the registry is what scripts of this workflow send. What isn't translated is refused, so
that nothing is silently left out; the body is kept and given back as it came.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mafunzo.entities.job import Job, JobStatus
from mafunzo.errors import InvalidParameter, NotSupported
from mafunzo.wire.azureml.envelope import (
    DATASTORE,
    RESOURCE_GROUP,
    SUBSCRIPTION,
    WORKSPACE,
    resource,
    resource_id,
    system_data,
)

STATUS: Mapping[JobStatus, str] = {
    JobStatus.QUEUED: "Queued",
    JobStatus.RUNNING: "Running",
    JobStatus.COMPLETED: "Completed",
    JobStatus.FAILED: "Failed",
    JobStatus.CANCELED: "Canceled",
}
EXECUTION_LOG = "logs/azureml/executionlogs.txt"
BODY = "azureml_body"
"""Under which a job keeps the body that it came with."""
_PARENT_INPUT = re.compile(r"\$\{\{\s*parent\.inputs\.([\w-]+)\s*\}\}")
_PARENT_OUTPUT = re.compile(r"\$\{\{\s*parent\.outputs\.([\w-]+)\s*\}\}")
_COMPONENT = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/components/(?P<name>[^/]+)(/(versions|labels)/[^/]+)?"
)
_DATA = re.compile(r"(?:azureml:)?/subscriptions/[^:]+/data/(?P<name>[^/]+)/versions/(?P<version>[^/]+)")
_DATASTORE = re.compile(r"azureml://(?:subscriptions/.+/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+?)/?")


@dataclass(frozen=True)
class StoredPath:
    """A path of a datastore that an input names: `azureml://datastores/workspaceblobstore/paths/a/train.jsonl`."""

    datastore: str
    path: str


@dataclass(frozen=True)
class DataVersion:
    """A version of registered data that an input names: `azureml:talks:1`, or its id."""

    name: str
    version: str


@dataclass(frozen=True)
class RegistryJob:
    """A job of one pipeline of the registry. inputs: by the pipeline's names, as text or a path; outputs: its outputs' names
    to those of the job."""

    component: str
    inputs: Mapping[str, str | StoredPath | DataVersion]
    outputs: Mapping[str, str]
    display_name: str
    experiment: str
    force_rerun: bool
    continue_on_step_failure: bool
    tags: Mapping[str, str]
    properties: Mapping[str, Any]


def job_from_body(name: str, body: Mapping[str, Any]) -> RegistryJob:
    """Read a PUT's body; raises `NotSupported` or `InvalidParameter` with all faults."""
    properties = body.get("properties") or {}
    nodes = properties.get("jobs") or {}
    if properties.get("jobType") != "Pipeline":
        raise NotSupported(f"Job '{name}' is a {properties.get('jobType')} job. Pipeline jobs run here.")
    if len(nodes) != 1:
        raise NotSupported(
            f"Job '{name}' has {len(nodes)} nodes. A job of one node, a pipeline of the registry, runs here."
        )
    ((node_name, node),) = nodes.items()
    component = _COMPONENT.fullmatch(str(node.get("componentId", "")))
    if component is None:
        raise NotSupported(f"Node '{node_name}' is {node.get('componentId')}. A pipeline of the registry runs here.")
    settings = properties.get("settings") or {}
    outer = {key: _value(given) for key, given in (properties.get("inputs") or {}).items()}
    return RegistryJob(
        component=component["name"],
        inputs={key: _bound(key, given, outer) for key, given in (node.get("inputs") or {}).items()},
        outputs=_outputs(node_name, node.get("outputs") or {}),
        display_name=str(properties.get("displayName") or name),
        experiment=str(properties.get("experimentName") or "Default"),
        force_rerun=_is_true(settings.get("force_rerun")),
        continue_on_step_failure=_is_true(settings.get("continue_on_step_failure")),
        tags={str(key): str(value) for key, value in (properties.get("tags") or {}).items()},
        properties={BODY: dict(body)},
    )


def job_body(job: Job, pages: str) -> dict[str, Any]:
    """Return a job as a GET answers it; `pages` is where people look at it."""
    kept = dict((job.properties.get(BODY) or {}).get("properties") or {})
    outputs = kept.get("outputs") or {name: {"jobOutputType": "uri_folder"} for name in job.outputs}
    found = {name: {**given, "uri": output_id(job.name, name)} for name, given in outputs.items()}
    properties = {
        **kept,
        "jobType": "Pipeline",
        "displayName": job.display_name,
        "experimentName": job.experiment,
        "status": status_of_job(job),
        "tags": dict(job.tags),
        "properties": dict(kept.get("properties") or {}),
        "services": {"Studio": {"endpoint": pages, "jobServiceType": "Studio", "status": None, "errorMessage": None}},
        "outputs": found,
        "inputs": kept.get("inputs") or {},
        "jobs": kept.get("jobs") or {},
        "isArchived": bool(kept.get("isArchived", False)),
    }
    made = system_data(job.created_by, job.created_at)
    return resource(resource_id("jobs", job.name), job.name, "workspaces/jobs", properties, systemData=made)


def run_details(job: Job, log: str) -> dict[str, Any]:
    """Return a run's details as its history tells them; `log` is the address of what it has printed."""
    return {
        "runId": job.name,
        "status": status_of_job(job),
        "startTimeUtc": _moment(job.started_at),
        "endTimeUtc": _moment(job.ended_at),
        "properties": {},
        "inputDatasets": [],
        "outputDatasets": [],
        "logFiles": {EXECUTION_LOG: log},
        "warnings": [],
        "error": _error(job.error) if job.error else None,
        "submittedBy": job.created_by,
    }


def run_data(job: Job) -> dict[str, Any]:
    """Return a run's data as its history tells them: its state, and its outputs under ids that are resolved to paths.

    An output that is a model is called a folder too: azure-ai-ml 1.35 breaks off before it asks where a model lies.
    """
    outputs = {name: {"assetId": output_id(job.name, name), "type": "uri_folder"} for name in job.outputs}
    return {"runMetadata": {"runId": job.name, "status": status_of_job(job), "outputs": outputs}}


def output_id(job: str, output: str) -> str:
    """Return the id of a job's output."""
    return f"azureml://jobs/{job}/outputs/{output}"


def datastore_uri(path: str) -> str:
    """Return the long address of a path of the datastore."""
    place = f"subscriptions/{SUBSCRIPTION}/resourcegroups/{RESOURCE_GROUP}/workspaces/{WORKSPACE}"
    return f"azureml://{place}/datastores/{DATASTORE}/paths/{path}"


def status_of_job(job: Job) -> str:
    """Return Azure's word for a job's state."""
    is_ending = job.is_cancel_requested and not job.status.is_terminal
    return "CancelRequested" if is_ending else STATUS[job.status]


def _value(given: Mapping[str, Any]) -> Any:
    """Return a job's or node's input: its literal value, or its path."""
    return (
        given.get("value") if given.get("job_input_type", given.get("jobInputType")) == "literal" else given.get("uri")
    )


def stored_path(uri: str) -> StoredPath | None:
    """Return the path of a datastore that an address names, or None for another address."""
    path = _DATASTORE.fullmatch(uri)
    return StoredPath(path["datastore"], path["path"]) if path else None


def _bound(name: str, given: Mapping[str, Any], outer: Mapping[str, Any]) -> str | StoredPath | DataVersion:
    value = _value(given)
    if match := _PARENT_INPUT.fullmatch(str(value).strip()):
        if match[1] not in outer:
            raise InvalidParameter(f"{name} comes from the job's input {match[1]}, which the job doesn't have.")
        value = outer[match[1]]
    if "${{" in str(value):
        raise NotSupported(f"{name} is '{value}'. A value, a path, or an input of the job can be given.")
    data = _DATA.fullmatch(str(value))
    return DataVersion(data["name"], data["version"]) if data else stored_path(str(value)) or str(value)


def _outputs(node: str, given: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, output in given.items():
        match = _PARENT_OUTPUT.fullmatch(str(output.get("value", "")).strip())
        if match is None:
            raise NotSupported(f"Output {name} of node '{node}' is {dict(output)}. It can be an output of the job.")
        found[name] = match[1]
    return found


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    faults = [str(fault) for fault in error.get("faults") or ()]
    message = "\n".join([str(error.get("message", "")), *(f"  - {fault}" for fault in faults)])
    return {"error": {"code": "UserError", "message": message, "details": [{"message": fault} for fault in faults]}}


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"
