"""Components of Azure ML's schema, which were checked when they were registered, as rows hold them since migration 5."""

import re
from collections.abc import Mapping
from typing import Any

from mafunzo.control.store.migration_5.address import Json, asset_reference, reference, source

_PARENT_OUTPUT = re.compile(r"\$\{\{\s*parent\.outputs\.([\w-]+)\s*\}\}")
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:[.,]\d+)?)S)?)?")
_BOUND = ("resources.instance_count", "distribution.process_count_per_instance", "limits.timeout")


def source_of(spec: Mapping[str, Any]) -> Json:
    """Return what a command names as its code and environment."""
    if spec.get("type", "command") != "command":
        return {"code": None, "environment": None}
    code, environment = spec.get("code", spec.get("codeId")), spec.get("environment", spec.get("environmentId"))
    return {
        "code": _asset_name(str(code)) if code else None,
        "environment": _asset_name(str(environment)) if environment else None,
    }


def component_of(spec: Mapping[str, Any]) -> Json:
    """Return a component by its specification."""
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
        "display_name": str(body.get("display_name") or body.get("displayName") or ""),
        "sweep": None,
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
    return {"reference": reference(str(address)), "type": str(kind or "uri_folder"), "text": str(address)}


def _output_binding(binding: Any) -> str:
    text = str((binding.get("value") or binding.get("path") or "") if isinstance(binding, Mapping) else binding or "")
    return text if not isinstance(binding, Mapping) or _PARENT_OUTPUT.fullmatch(text.strip()) else ""


def _destination(body: Mapping[str, Any]) -> Json | None:
    asset = str(body.get("assetName") or body.get("name") or "")
    place = source(str(body.get("uri") or body.get("path") or ""))
    path = place["path"] if "datastore" in place else ""
    if not asset and not path:
        return None
    kind = body.get("jobOutputType") or body.get("job_output_type") or body.get("type") or "uri_folder"
    return {
        "folder_type": str(kind),
        "asset_name": asset,
        "asset_version": str(body.get("assetVersion") or body.get("version") or ""),
        "path": path,
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
    return asset_reference(text) or text


def _is_bound(text: Any) -> bool:
    return isinstance(text, str) and "${{" in text


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in (values or {}).items()}


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"
