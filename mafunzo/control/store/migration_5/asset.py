"""The bodies of assets' rows: JSON as rows held it up to migration 4, to JSON as rows hold it since."""

import re
from collections.abc import Callable, Mapping

import yaml

from mafunzo.control.store.migration_5.address import Json, source
from mafunzo.control.store.migration_5.component import component_of, source_of

_BLOB = re.compile(r"https://[^/]+/[^/]+\.blob\.local(:\d+)?/(?P<container>[^/?]+)/?(?P<path>[^?]*?)/?(\?.*)?")
_PACKAGE = re.compile(r"(?:[\w./-]+::)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<version>[=<>!~\s].*)?")
_BUILD = re.compile(r"(?<=\d)=[\w*]+$")


def asset_body(type: str, name: str, version: str, body: Json) -> Json:
    """Return the new body of an asset's row."""
    properties = dict(body["properties"])
    echo = _CHANGES[type](properties, name, version)
    is_anonymous = bool(properties.pop("is_anonymous", False) or (type == "environment" and echo.get("isAnonymous")))
    echoes = {"azure": echo} if echo else {}
    if type == "model" and (logged := _mlflow_echo(properties)):
        echoes["mlflow"] = logged
    return body | {"properties": properties, "is_anonymous": is_anonymous, "echoes": echoes}


def _model(properties: Json, _: str, __: str) -> Json:
    properties.pop("uri", None)  # of a model that a step made; `job` and `output` say the same
    echo = dict(properties.pop("said", None) or {})
    if path := properties.pop("path", None):
        properties["source"] = source(path)
        echo["modelUri"] = path
    return echo


def _mlflow_echo(properties: Json) -> Json:
    names = {"mlflow_source": "source", "mlflow_run_id": "run_id", "mlflow_model_id": "model_id"}
    return {new: properties.pop(old) for old, new in names.items() if old in properties}


def _data(properties: Json, name: str, version: str) -> Json:
    if "uri" not in properties:  # a folder that was named as a mirror
        return {}
    echo = dict(properties.pop("said", None) or {})
    uri = properties.pop("uri")
    facts = source(uri)
    if facts.get("path", "").startswith(f"assets/data/{name}/{version}/") and "datastore" in facts:
        properties["shown_at"] = facts["path"]
    else:
        properties["source"] = facts
        echo["dataUri"] = uri
    return echo


def _environment(properties: Json, _: str, __: str) -> Json:
    echo: Json = properties.pop("body")["properties"]
    properties |= _conda_facts(echo.get("condaFile") or "") | {"image": str(echo.get("image") or "")}
    return echo


def _code(properties: Json, _: str, __: str) -> Json:
    uri = properties.pop("uri")
    if match := _BLOB.fullmatch(uri):
        properties |= {"container": match["container"], "path": match["path"]}
    else:
        properties |= {"container": "azureml-blobstore", "path": source(uri)["path"]}
    return {"codeUri": uri}


def _component(properties: Json, _: str, __: str) -> Json:
    spec = properties.pop("spec")
    properties["user_properties"] = properties.pop("properties", None) or {}
    properties |= {"component": component_of(spec), "source": source_of(spec)}
    return {"componentSpec": spec}


_CHANGES: Mapping[str, Callable[[Json, str, str], Json]] = {
    "model": _model,
    "data": _data,
    "environment": _environment,
    "code": _code,
    "component": _component,
}
"""By type of asset: takes Azure's words out of the properties, and returns the echo of them."""


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
