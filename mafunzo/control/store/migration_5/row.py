"""The bodies of all rows of entities but assets: JSON as rows held it up to migration 4, to JSON as rows hold it since."""

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

Body = Mapping[str, Any]
OLD, NEW = "python -m mafunzo.components.", "python -m mafunzo.compute.components."


def job_body(body: Body) -> dict[str, Any]:
    """Return the new body of a job's row; of a job that came another way, Azure's was only what was changed of it."""
    properties = dict(body.get("properties") or {})
    sent = properties.pop("azureml_body", None) or {}
    is_archived = bool(properties.pop("is_archived", False))
    job = sent.get("properties") or {}
    return {
        **body,
        "properties": properties,
        "description": job.get("description"),
        "user_properties": job.get("properties") or {},
        "is_archived": is_archived,
        "echoes": {"azure": sent} if job.get("jobType") else {},
    }


def step_body(body: Body) -> dict[str, Any]:
    """Return the new body of a step's row: what a user wrote stays."""
    spec = body.get("spec") or {}
    if not spec.get("is_trusted"):
        return dict(body)
    return {**body, "spec": {**spec, "command": spec["command"].replace(OLD, NEW)}}


def endpoint_body(body: Body) -> dict[str, Any]:
    """Return the new body of an endpoint's row."""
    return _with_echo(body, "azureml_body")


def deployment_body(body: Body) -> dict[str, Any]:
    """Return the new body of a deployment's row."""
    properties = body.get("properties") or {}
    typed = {name: properties[name] for name in ("base_artifact", "supervision") if properties.get(name)}
    return _with_echo(body, "azureml_body") | typed


def compute_body(body: Body) -> dict[str, Any]:
    """Return the new body of a compute's row."""
    return _with_echo(body, "body")


def blob_body(container: str, name: str, body: Body, jobs: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return the new body of a blob's row; `jobs` is as of `paths_of_jobs`."""
    job = jobs.get((container, "/".join(name.split("/")[:2])))
    return {**body, "view_of": f"job:{job}" if job else ""}


def paths_of_jobs(connection: Connection) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield container and path of what is shown of each job, and of each step, with the job."""
    jobs = [(job, job) for job in connection.execute(sa.text("SELECT name FROM job")).scalars()]
    steps = [(f"{job}.{name}", job) for job, name in connection.execute(sa.text("SELECT job, name FROM step"))]
    for name, job in [*jobs, *steps]:
        yield ("azureml-blobstore", f"azureml/{name}"), job
        yield ("azureml", f"ExperimentRun/dcid.{name}"), job


def _with_echo(body: Body, key: str) -> dict[str, Any]:
    """Return a body whose properties are gone, but for what stood under `key`, which becomes Azure's echo."""
    echo = (body.get("properties") or {}).get(key)
    neutral = {name: value for name, value in body.items() if name != "properties"}
    return neutral | {"echoes": {**(body.get("echoes") or {}), **({"azure": echo} if echo else {})}}
