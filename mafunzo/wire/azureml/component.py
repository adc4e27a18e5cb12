"""Azure ML's component schema (`x.yml`, or a registry's componentSpec) to and from a `Component`.

Keys of our own begin with `x-`: `x-refused`, `x-aliases`, `x-exclusive-minimum`, `x-cpus`, `x-gpus` (it can't run with fewer),
`x-gpus-if-any` (it runs with fewer too), `x-memory-mb`, `x-retries`. A component that doesn't state `x-cpus` has all cores to
itself, as a step has its node on Azure.
"""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.component import LITERAL_TYPES, PATH_TYPES, Component, Input, Node, Output
from mafunzo.entities.job import Resources
from mafunzo.errors import InvalidFile


def component_from_dict(body: Mapping[str, Any], where: str) -> Component:
    """Build a component from its parsed YAML; `where` names the file in errors. Raises `InvalidFile` with all faults."""
    faults: list[str] = []
    kind = body.get("type", "command")
    if kind not in ("command", "pipeline"):
        faults.append(f"type is '{kind}', expected command or pipeline.")
    for key in ("name", "command" if kind == "command" else "jobs"):
        if not body.get(key):
            faults.append(f"{key} is missing.")
    inputs = {name: _input(name, spec or {}, faults) for name, spec in (body.get("inputs") or {}).items()}
    outputs = {name: _output(name, spec or {}, faults) for name, spec in (body.get("outputs") or {}).items()}
    if faults:
        raise InvalidFile(f"{where}: not a component that can be used.", faults)
    return Component(
        name=str(body["name"]),
        version=str(body.get("version", "1")),
        kind=kind,
        display_name=str(body.get("display_name", body["name"])),
        description=str(body.get("description", "")),
        inputs=inputs,
        outputs=outputs,
        command=str(body.get("command", "")).strip() if kind == "command" else "",
        nodes={name: _node(name, node) for name, node in (body.get("jobs") or {}).items()},
        resources=_resources(body),
        environment={str(k): str(v) for k, v in (body.get("environment_variables") or {}).items()},
        is_deterministic=bool(body.get("is_deterministic", True)),
        tags={str(k): str(v) for k, v in (body.get("tags") or {}).items()},
    )


def _input(name: str, spec: Mapping[str, Any], faults: list[str]) -> Input:
    kind = str(spec.get("type", "string")).lower()
    if kind not in LITERAL_TYPES + PATH_TYPES:
        faults.append(f"input {name} has the type '{kind}', expected one of {', '.join(LITERAL_TYPES + PATH_TYPES)}.")
    return Input(
        name=name,
        type=kind,
        description=str(spec.get("description", "")).strip(),
        is_optional=bool(spec.get("optional", False)),
        default=spec.get("default"),
        enum=tuple(str(value) for value in spec.get("enum") or ()),
        minimum=spec.get("min"),
        maximum=spec.get("max"),
        exclusive_minimum=spec.get("x-exclusive-minimum"),
        refused={str(k): str(v) for k, v in (spec.get("x-refused") or {}).items()},
        aliases=tuple(spec.get("x-aliases") or ()),
    )


def _output(name: str, spec: Mapping[str, Any], faults: list[str]) -> Output:
    kind = str(spec.get("type", "uri_folder")).lower()
    if kind not in PATH_TYPES:
        faults.append(f"output {name} has the type '{kind}', expected one of {', '.join(PATH_TYPES)}.")
    return Output(name=name, type=kind, description=str(spec.get("description", "")).strip())


def _node(name: str, body: Mapping[str, Any]) -> Node:
    return Node(
        name=name,
        component=str(body.get("component", "")),
        inputs=dict(body.get("inputs") or {}),
        outputs={key: str(value) for key, value in (body.get("outputs") or {}).items()},
        resources=_resources(body) if body.get("resources") else None,
        retries=int(body.get("x-retries", 0)),
    )


def _resources(body: Mapping[str, Any]) -> Resources:
    given = body.get("resources") or {}
    distribution = body.get("distribution") or {}
    return Resources(
        cpus=int(given.get("x-cpus", 0)),
        gpus=int(given.get("x-gpus", 0)),
        gpus_if_any=int(given.get("x-gpus-if-any", 0)),
        memory_mb=int(given.get("x-memory-mb", 0)),
        processes=int(distribution.get("process_count_per_instance", 1)),
    )
