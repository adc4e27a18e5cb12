"""The part of migration 5 for models, data, environments and code, and for the blobs that show what jobs made.

Before, an asset's `properties` held addresses, and pieces of requests, as Azure ML writes them. Since then they hold neutral
facts, and what else there is to give back stands in `echoes`. This module translates JSON to JSON, imports nothing of the
package that may change, and never changes itself.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
import yaml
from sqlalchemy.engine import Connection

Json = dict[str, Any]

_JOB_OUTPUT = re.compile(
    r"(azureml:)?azureml://(?:[^:]+/)?jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(/paths(/(?P<path>.*?))?/?)?/?"
)
_STORED = re.compile(
    r"(azureml:)?azureml://(?:subscriptions/.+/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+?)/?"
)
_BLOB = re.compile(r"https://[^/]+/[^/]+\.blob\.local(:\d+)?/(?P<container>[^/?]+)/?(?P<path>[^?]*?)/?(\?.*)?")
_PACKAGE = re.compile(r"(?:[\w./-]+::)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<version>[=<>!~\s].*)?")
_BUILD = re.compile(r"(?<=\d)=[\w*]+$")


def apply(connection: Connection) -> None:
    """Rewrite every asset, and mark every blob that shows a file of a job."""
    metadata = sa.MetaData()
    tables = {name: sa.Table(name, metadata, autoload_with=connection) for name in ("asset", "job", "step", "blob")}
    asset = tables["asset"]
    for row in connection.execute(
        sa.select(asset.c.id, asset.c.type, asset.c.name, asset.c.version, asset.c.body)
    ).all():
        body = neutral_asset(row.type, row.name, row.version, row.body)
        connection.execute(sa.update(asset).where(asset.c.id == row.id).values(body=body))
    _mark_views(connection, tables)


def neutral_asset(type: str, name: str, version: str, body: Json) -> Json:
    """Return the body of an asset's row in the new shape; of a component's only the flag that all kinds have."""
    properties = dict(body["properties"])
    change = _CHANGES.get(type)
    echo = change(properties, name, version) if change else {}
    is_anonymous = bool(properties.pop("is_anonymous", False) or (type == "environment" and echo.get("isAnonymous")))
    echoes = {"azure": echo} if echo else {}
    if type == "model" and (logged := _mlflow_echo(properties)):
        echoes["mlflow"] = logged
    return body | {"properties": properties, "is_anonymous": is_anonymous, "echoes": echoes}


def _neutral_model(properties: Json, _: str, __: str) -> Json:
    properties.pop("uri", None)  # of a model that a step made; `job` and `output` say the same
    echo = dict(properties.pop("said", None) or {})
    if path := properties.pop("path", None):
        properties["source"] = _source(path)
        echo["modelUri"] = path
    return echo


def _mlflow_echo(properties: Json) -> Json:
    names = {"mlflow_source": "source", "mlflow_run_id": "run_id", "mlflow_model_id": "model_id"}
    return {new: properties.pop(old) for old, new in names.items() if old in properties}


def _neutral_data(properties: Json, name: str, version: str) -> Json:
    if "uri" not in properties:  # a folder that was named as a mirror
        return {}
    echo = dict(properties.pop("said", None) or {})
    uri = properties.pop("uri")
    source = _source(uri)
    if source.get("path", "").startswith(f"assets/data/{name}/{version}/") and "datastore" in source:
        properties["shown_at"] = source["path"]
    else:
        properties["source"] = source
        echo["dataUri"] = uri
    return echo


def _neutral_environment(properties: Json, _: str, __: str) -> Json:
    echo: Json = properties.pop("body")["properties"]
    properties |= _conda_facts(echo.get("condaFile") or "") | {"image": str(echo.get("image") or "")}
    return echo


def _neutral_code(properties: Json, _: str, __: str) -> Json:
    uri = properties.pop("uri")
    if match := _BLOB.fullmatch(uri):
        properties |= {"container": match["container"], "path": match["path"]}
    else:
        properties |= {"container": "azureml-blobstore", "path": _source(uri)["path"]}
    return {"codeUri": uri}


_CHANGES: Mapping[str, Callable[[Json, str, str], Json]] = {
    "model": _neutral_model,
    "data": _neutral_data,
    "environment": _neutral_environment,
    "code": _neutral_code,
}
"""By type of asset: takes Azure's words out of the properties, and returns the echo of them."""


def _source(uri: str) -> Json:
    """Return the facts of an address: an output of a job, a path of a datastore, or a file of the web."""
    if match := _JOB_OUTPUT.fullmatch(uri):
        return {"job": match["job"], "output": match["output"], "path": match["path"] or ""}
    if match := _STORED.fullmatch(uri):
        return {"datastore": match["datastore"], "path": match["path"]}
    return {"url": uri}


def _conda_facts(text: str) -> Json:
    """Return what a conda file asks for. It was checked when it was registered."""
    body = yaml.load(text, Loader=yaml.BaseLoader) or {}
    packages: list[str] = []
    conda_lines: list[str] = []
    for entry in body.get("dependencies") or []:
        if isinstance(entry, dict):
            packages += [line.strip() for line in entry["pip"] or []]
        else:
            conda_lines.append(entry.strip())
    versions = dict(map(_package, conda_lines))
    return {
        "packages": packages,
        "python": versions.get("python", ""),
        "variables": body.get("variables") or {},
        "conda_packages": [entry for entry in conda_lines if _package(entry)[0] not in ("python", "pip")],
    }


def _package(entry: str) -> tuple[str, str]:
    match = _PACKAGE.fullmatch(entry)
    assert match is not None, "checked when it was registered"
    version = _BUILD.sub("", (match["version"] or "").strip())
    return match["name"].lower(), re.sub(r"^==? *", "", version)


def _mark_views(connection: Connection, tables: Mapping[str, sa.Table]) -> None:
    """Say of each blob under a path at which a job's files are shown that it is a view of the job."""
    jobs = dict(_paths_of_jobs(connection, tables))
    blob = tables["blob"]
    for row in connection.execute(sa.select(blob.c.id, blob.c.container, blob.c.name, blob.c.body)).all():
        job = jobs.get((row.container, _first_parts(row.name)))
        body = row.body | {"view_of": f"job:{job}" if job else ""}
        connection.execute(sa.update(blob).where(blob.c.id == row.id).values(body=body))


def _paths_of_jobs(connection: Connection, tables: Mapping[str, sa.Table]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield container and path of what is shown of each job, and of each step, with the job."""
    names = [(job, job) for job in connection.execute(sa.select(tables["job"].c.name)).scalars()]
    steps = connection.execute(sa.select(tables["step"].c.job, tables["step"].c.name)).all()
    for name, job in [*names, *((f"{step.job}.{step.name}", step.job) for step in steps)]:
        yield ("azureml-blobstore", f"azureml/{name}"), job
        yield ("azureml", f"ExperimentRun/dcid.{name}"), job


def _first_parts(name: str) -> str:
    return "/".join(name.split("/")[:2])
