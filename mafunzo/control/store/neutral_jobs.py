"""The part of migration 5 for jobs and components: JSON as rows held it up to migration 4, to JSON as rows hold it since.

Frozen: it never changes, and imports nothing of the package that may.

| row | before | after |
|---|---|---|
| job | `properties.azureml_body` | `echoes.azure`; `description` and `user_properties` from it |
| job | `properties.is_archived` | `is_archived` |
| asset (component) | `properties.spec` | `properties.component` and `.source`; `echoes.azure.componentSpec` |
| asset (component) | `properties.properties` | `properties.user_properties` |

What a job was asked for isn't derived: its `settings` stay unknown, and whoever needs them reads the echo.
"""

import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

Json = dict[str, Any]

_VERSION = r"(/(versions/(?P<version>[^/]+)|labels/(?P<label>[^/]+)))?/?"
_ASSETS = tuple(
    re.compile(form + _VERSION)
    for form in (
        r"(azureml:)?azureml://registries/(?P<registry>[^/]+)/(?P<noun>\w+)/(?P<name>[^/]+)",
        r"(azureml:|azureml:/)?/subscriptions/[^/]+/resource[gG]roups/[^/]+/(providers/[^/]+/)?workspaces/[^/]+"
        r"/(?P<noun>\w+)/(?P<name>[^/]+)",
        r"(azureml:)?azureml://locations/[^/]+/workspaces/[^/]+/(?P<noun>\w+)/(?P<name>[^/]+)",
    )
)
_SHORT = re.compile(r"(?P<name>[^:@/]+)(:(?P<version>[^:@/]+)|@(?P<label>[^:@/]+))?")
_JOB_OUTPUT = re.compile(
    r"(azureml:)?azureml://(?:[^:]+/)?jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(/paths(/(?P<path>.*?))?/?)?/?"
)
_STORED = re.compile(
    r"(azureml:)?azureml://(?:subscriptions/.+/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+?)/?"
)
_WEB = re.compile(r"https?://[^/?#\s]+/\S*[^/\s]")
_TYPES = {
    "models": "model",
    "data": "data",
    "components": "component",
    "environments": "environment",
    "codes": "code",
}
_PARENT_OUTPUT = re.compile(r"\$\{\{\s*parent\.outputs\.([\w-]+)\s*\}\}")
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:[.,]\d+)?)S)?)?")
_BOUND = ("resources.instance_count", "distribution.process_count_per_instance", "limits.timeout")


def apply(connection: Connection) -> None:
    """Rewrite every job, and every component."""
    job = sa.table("job", sa.column("id", sa.BigInteger), sa.column("body", sa.JSON))
    asset = sa.table("asset", sa.column("id", sa.BigInteger), sa.column("type", sa.Text), sa.column("body", sa.JSON))
    for row in connection.execute(sa.select(job)).all():
        connection.execute(sa.update(job).where(job.c.id == row.id).values(body=neutral_job(row.body)))
    for row in connection.execute(sa.select(asset).where(asset.c.type == "component")).all():
        connection.execute(sa.update(asset).where(asset.c.id == row.id).values(body=neutral_asset(row.body)))


def neutral_job(body: Json) -> Json:
    """Return the new body of a job's row."""
    properties = dict(body.get("properties") or {})
    sent = properties.pop("azureml_body", None) or {}
    is_archived = bool(properties.pop("is_archived", False))
    resource_properties = sent.get("properties") or {}
    echoes = (
        {"azure": sent} if resource_properties.get("jobType") else {}
    )  # else only what was changed of a job that came another way
    return body | {
        "properties": properties,
        "description": resource_properties.get("description"),
        "user_properties": resource_properties.get("properties") or {},
        "is_archived": is_archived,
        "echoes": echoes,
    }


def neutral_asset(body: Json) -> Json:
    """Return the new body of a component's row."""
    properties = dict(body["properties"])
    spec = properties.pop("spec")
    properties["user_properties"] = properties.pop("properties", None) or {}
    properties["component"] = neutral_component(spec)
    properties["source"] = neutral_source(spec)
    return body | {"properties": properties, "echoes": {"azure": {"componentSpec": spec}}}


def neutral_source(spec: Mapping[str, Any]) -> Json:
    """Return what a command names as its code and environment."""
    if spec.get("type", "command") != "command":
        return {"code": None, "environment": None}
    code, environment = spec.get("code", spec.get("codeId")), spec.get("environment", spec.get("environmentId"))
    return {
        "code": _asset_name(str(code)) if code else None,
        "environment": _asset_name(str(environment)) if environment else None,
    }


def neutral_component(spec: Mapping[str, Any]) -> Json:
    """Return a component of Azure's schema, which was checked when it was registered."""
    kind = spec.get("type", "command")
    return {
        "name": str(spec["name"]),
        "version": str(spec.get("version") or "1"),
        "kind": kind,
        "display_name": str(spec.get("display_name") or spec["name"]),
        "description": str(spec.get("description") or ""),
        "inputs": {name: _input(name, declaration or {}) for name, declaration in (spec.get("inputs") or {}).items()},
        "outputs": {
            name: _output(name, declaration or {}) for name, declaration in (spec.get("outputs") or {}).items()
        },
        "command": str(spec.get("command", "")).strip() if kind == "command" else "",
        "nodes": {name: _node(name, node) for name, node in (spec.get("jobs") or {}).items()},
        "resources": _resources(spec),
        "environment": _texts(spec.get("environment_variables")),
        "is_deterministic": _is_true(spec.get("is_deterministic", True)),
        "tags": _texts(spec.get("tags")),
    }


def _input(name: str, spec: Mapping[str, Any]) -> Json:
    return {
        "name": name,
        "type": str(spec.get("type", "string")).lower(),
        "description": str(spec.get("description") or "").strip(),
        "is_optional": _is_true(spec.get("optional", False)),
        "default": spec.get("default"),
        "enum": [str(value) for value in spec.get("enum") or ()],
        "minimum": None if spec.get("min") is None else float(spec["min"]),
        "maximum": None if spec.get("max") is None else float(spec["max"]),
        "exclusive_minimum": spec.get("x-exclusive-minimum"),
        "refused": _texts(spec.get("x-refused")),
        "aliases": list(spec.get("x-aliases") or ()),
    }


def _output(name: str, spec: Mapping[str, Any]) -> Json:
    return {
        "name": name,
        "type": str(spec.get("type", "uri_folder")).lower(),
        "description": str(spec.get("description") or "").strip(),
    }


def _node(name: str, body: Mapping[str, Any]) -> Json:
    bound = {key: text for key in _BOUND if _is_bound(text := _setting(body, key))}
    if _is_bound(compute := body.get("computeId") or body.get("compute")):
        bound["compute"] = compute
    outputs = body.get("outputs") or {}
    has_resources = body.get("resources") or body.get("distribution")
    return {
        "name": name,
        "component": _asset_name(str(body.get("componentId") or body.get("component") or "")),
        "inputs": {key: _node_input(binding) for key, binding in (body.get("inputs") or {}).items()},
        "outputs": {key: text for key, binding in outputs.items() if (text := _output_binding(binding))},
        "resources": _resources(body, bound) if has_resources else None,
        "retries": int(body.get("x-retries") or 0),
        "environment": _texts(body.get("environment_variables") or body.get("environmentVariables")),
        "destinations": {
            key: place
            for key, binding in outputs.items()
            if isinstance(binding, Mapping) and (place := _destination(binding))
        },
        "timeout_s": 0.0 if "limits.timeout" in bound else _seconds(_setting(body, "limits.timeout")),
        "bound": bound,
        "is_distributed": bool(body.get("distribution")),
    }


def _node_input(binding: Any) -> Any:
    if not isinstance(binding, Mapping):
        return binding
    if "value" in binding:
        return binding["value"]
    address = binding.get("uri", binding.get("path"))
    if address is None or "${{" in str(address):
        return address
    kind = binding.get("job_input_type") or binding.get("jobInputType") or binding.get("type")
    return {"reference": _reference(str(address)), "type": str(kind or "uri_folder"), "text": str(address)}


def _output_binding(binding: Any) -> str:
    text = str((binding.get("value") or binding.get("path") or "") if isinstance(binding, Mapping) else binding or "")
    return text if not isinstance(binding, Mapping) or _PARENT_OUTPUT.fullmatch(text.strip()) else ""


def _destination(body: Mapping[str, Any]) -> Json | None:
    asset = str(body.get("assetName") or body.get("name") or "")
    path = _STORED.fullmatch(str(body.get("uri") or body.get("path") or ""))
    if not asset and path is None:
        return None
    kind = body.get("jobOutputType") or body.get("job_output_type") or body.get("type") or "uri_folder"
    return {
        "folder_type": str(kind),
        "asset_name": asset,
        "asset_version": str(body.get("assetVersion") or body.get("version") or ""),
        "path": path["path"] if path else "",
    }


def _resources(body: Mapping[str, Any], bound: Mapping[str, str] | None = None) -> Json:
    def whole(name: str, least: int = 0) -> int:
        value = None if name in (bound or {}) else _setting(body, name)
        return least if value is None else int(float(value))

    processes = whole("distribution.process_count_per_instance", 1)
    if body.get("distribution"):
        processes *= whole("resources.instance_count", 1)
    return {
        "cpus": whole("resources.x-cpus"),
        "gpus": whole("resources.x-gpus"),
        "memory_mb": whole("resources.x-memory-mb"),
        "processes": processes,
        "gpus_if_any": whole("resources.x-gpus-if-any"),
    }


def _setting(body: Mapping[str, Any], name: str) -> Any:
    section, key = name.split(".")
    first, *rest = key.split("_")
    settings = body.get(section) or {}
    return settings.get(key, settings.get(first + "".join(word.capitalize() for word in rest)))


def _seconds(limit: Any) -> float:
    if limit is None:
        return 0.0
    match = _DURATION.fullmatch(str(limit).strip())
    if match is None:
        return float(limit)
    days, hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _asset_name(text: str) -> Json | str:
    """Return the asset that a text names, or the text."""
    reference = _asset_reference(text)
    return text if reference is None else reference


def _reference(text: str) -> Json | None:
    """Return what an address names; None for one of another form."""
    if match := _JOB_OUTPUT.fullmatch(text):
        return {"job": match["job"], "output": match["output"], "path": match["path"] or ""}
    if match := _STORED.fullmatch(text):
        return {"datastore": match["datastore"], "path": match["path"]}
    if _WEB.fullmatch(text):
        return {"url": text}
    return _asset_reference(text)


def _asset_reference(text: str) -> Json | None:
    match = next((match for form in _ASSETS if (match := form.fullmatch(text))), None)
    match = match or _SHORT.fullmatch(text.removeprefix("azureml:"))
    if match is None:
        return None
    parts = match.groupdict()
    noun = parts.get("noun")
    if noun and noun not in _TYPES:
        return None
    return {
        "name": parts["name"].removeprefix("azureml:"),
        "version": parts["version"],
        "label": parts["label"] if parts["label"] != "latest" else None,
        "registry": parts.get("registry"),
        "type": _TYPES[noun] if noun else None,
    }


def _is_bound(text: Any) -> bool:
    return isinstance(text, str) and "${{" in text


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in (values or {}).items()}


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"
