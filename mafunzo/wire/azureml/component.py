"""Azure ML's component schema (`x.yml`, or a registry's componentSpec) to and from a `Component`.

Keys of our own begin with `x-`: `x-refused`, `x-aliases`, `x-exclusive-minimum`, `x-cpus`, `x-gpus` (it can't run with fewer),
`x-gpus-if-any` (it runs with fewer too), `x-memory-mb`, `x-retries`. A component that doesn't state `x-cpus` has all cores to
itself, as a step has its node on Azure.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from mafunzo.entities.component import (
    COMPUTE,
    INSTANCES,
    LITERAL_TYPES,
    PARENT_OUTPUT,
    PATH_TYPES,
    PROCESSES,
    TIMEOUT,
    Component,
    Input,
    Node,
    Output,
    parse_value,
)
from mafunzo.entities.duration import limit_of
from mafunzo.entities.job import MAX_PROCESSES, Destination, Resources
from mafunzo.entities.reference import JobOutputReference, PathInput
from mafunzo.errors import InvalidFile, InvalidParameter, NotSupported
from mafunzo.wire.azureml.envelope import is_true, texts
from mafunzo.wire.azureml.reference import parse_reference, stored_path

NODE_TYPES = ("command", "pipeline")


@dataclass(frozen=True)
class Source:
    """Where a user's command works, and in which packages: names of a code asset and of an environment."""

    code: str | None = None
    environment: str | None = None


def component_from_dict(body: Mapping[str, Any], where: str) -> Component:
    """Build a component from its parsed YAML; `where` names the file in errors.

    Raises `InvalidFile` with all faults of its interface, `InvalidParameter` for a number among its resources.
    """
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
        version=str(body.get("version") or "1"),
        kind=kind,
        display_name=str(body.get("display_name") or body["name"]),
        description=str(body.get("description") or ""),
        inputs=inputs,
        outputs=outputs,
        command=str(body.get("command", "")).strip() if kind == "command" else "",
        nodes={name: node_from_body(name, node) for name, node in (body.get("jobs") or {}).items()},
        resources=resources_from_body(where, body),
        environment=texts(body.get("environment_variables")),
        is_deterministic=is_true(body.get("is_deterministic", True)),
        tags=texts(body.get("tags")),
    )


def source_of(spec: Mapping[str, Any]) -> Source:
    """Return what a command's specification names as its code and environment, as written in YAML or in JSON."""
    code, environment = spec.get("code", spec.get("codeId")), spec.get("environment", spec.get("environmentId"))
    return Source(str(code) if code else None, str(environment) if environment else None)


def _input(name: str, spec: Mapping[str, Any], faults: list[str]) -> Input:
    kind = str(spec.get("type", "string")).lower()
    if kind not in LITERAL_TYPES + PATH_TYPES:
        faults.append(f"input {name} has the type '{kind}', expected one of {', '.join(LITERAL_TYPES + PATH_TYPES)}.")
    return Input(
        name=name,
        type=kind,
        description=str(spec.get("description") or "").strip(),
        is_optional=is_true(spec.get("optional", False)),
        default=spec.get("default"),
        enum=tuple(str(value) for value in spec.get("enum") or ()),
        minimum=_bound(name, spec, "min", faults),
        maximum=_bound(name, spec, "max", faults),
        exclusive_minimum=spec.get("x-exclusive-minimum"),
        refused=texts(spec.get("x-refused")),
        aliases=tuple(spec.get("x-aliases") or ()),
    )


def _bound(name: str, spec: Mapping[str, Any], key: str, faults: list[str]) -> float | None:
    """Return a bound, which Azure's SDK writes as a text."""
    try:
        return None if spec.get(key) is None else float(spec[key])
    except (TypeError, ValueError):
        faults.append(f"input {name} has {key} {spec[key]!r}, expected a number.")
        return None


def _output(name: str, spec: Mapping[str, Any], faults: list[str]) -> Output:
    kind = str(spec.get("type", "uri_folder")).lower()
    if kind not in PATH_TYPES:
        faults.append(f"output {name} has the type '{kind}', expected one of {', '.join(PATH_TYPES)}.")
    return Output(name=name, type=kind, description=str(spec.get("description") or "").strip())


def node_from_body(name: str, body: Mapping[str, Any]) -> Node:
    """Read a node of a pipeline, as YAML or JSON has it.

    Raises `NotSupported` for a kind of node that doesn't run here, `InvalidParameter` for a number that isn't one.
    """
    who = f"Node '{name}'"
    kind = str(body.get("type") or NODE_TYPES[0])
    if kind not in NODE_TYPES:
        raise NotSupported(f"{who} is of the type {kind}. Nodes of commands and pipelines run here.")
    require_no_services(who, body)
    bound = _bindings(body)
    outputs = body.get("outputs") or {}
    return Node(
        name=name,
        component=str(body.get("componentId") or body.get("component") or ""),
        inputs={key: input_from_body(given) for key, given in (body.get("inputs") or {}).items()},
        outputs={key: text for key, given in outputs.items() if (text := _output_binding(given))},
        resources=resources_from_body(who, body, bound) if body.get("resources") or body.get("distribution") else None,
        retries=_whole(who, "x-retries", body.get("x-retries")),
        environment=texts(body.get("environment_variables") or body.get("environmentVariables")),
        destinations={
            key: found
            for key, given in outputs.items()
            if isinstance(given, Mapping) and (found := destination_from_body(key, given))
        },
        timeout_s=0.0 if TIMEOUT in bound else timeout_from_body(who, body),
        bound=bound,
        is_distributed=bool(body.get("distribution")),
    )


def _bindings(body: Mapping[str, Any]) -> dict[str, str]:
    """Return what of a node is bound to inputs besides its own inputs, as written."""
    said = {name: _setting(body, name) for name in (INSTANCES, PROCESSES, TIMEOUT)}
    said[COMPUTE] = body.get("computeId") or body.get("compute")
    return {name: text for name, text in said.items() if isinstance(text, str) and "${{" in text}


def require_no_services(who: str, body: Mapping[str, Any]) -> None:
    """Raise `NotSupported` where something to talk to is to run beside a command; those that a GET tells of are none."""
    given = (body.get("services") or {}).values()
    kinds = {str(one.get("jobServiceType") or one.get("job_service_type")) for one in given if one}
    if wanted := sorted(kinds - {"Studio", "Tracking"}):
        raise NotSupported(f"{who} asks for {', '.join(wanted)}. Services aren't run beside a job here: leave it out.")


def input_from_body(given: Any) -> Any:
    """Return an input's value or binding as written, or the path that it names; None for one that isn't given."""
    if not isinstance(given, Mapping):
        return given
    if "value" in given:
        return given["value"]
    address = given.get("uri", given.get("path"))
    if address is None or "${{" in str(address):
        return address
    kind = given.get("job_input_type") or given.get("jobInputType") or given.get("type")
    return PathInput(parse_reference(str(address)), str(kind or "uri_folder"), str(address))


def destination_from_body(name: str, given: Mapping[str, Any]) -> Destination | None:
    """Return where an output goes besides; None where it says nothing of it. Raises `NotSupported` for another datastore's."""
    asset = str(given.get("assetName") or given.get("name") or "")
    version = str(given.get("assetVersion") or given.get("version") or "")
    address = str(given.get("uri") or given.get("path") or "")
    path = stored_path(address)
    if "${{" in address or isinstance(parse_reference(address), JobOutputReference):
        address, path = "", None  # bound to the job's, or where a job that was fetched says that its own output is
    if address and path is None:
        raise NotSupported(
            f"Output {name} is to go to '{address}'. It can go to azureml://datastores/<name>/paths/<path>."
        )
    if not asset and path is None:
        return None
    kind = given.get("jobOutputType") or given.get("job_output_type") or given.get("type") or "uri_folder"
    return Destination(str(kind), asset, version, path.path if path else "")


def resources_from_body(who: str, body: Mapping[str, Any], bound: Container[str] = ()) -> Resources:
    """Return what a command holds. A distributed one runs the processes of all its instances here, side by side.

    `bound` names what of it isn't known yet, which counts as one. Raises `InvalidParameter` that names `who`.
    """

    def whole(name: str, least: int = 0) -> int:
        return _whole(who, name, None if name in bound else _setting(body, name), least)

    instances, processes = whole(INSTANCES, 1), whole(PROCESSES, 1)
    if body.get("distribution"):
        processes *= instances
    if processes > MAX_PROCESSES:
        raise InvalidParameter(
            f"{who}: distribution asks for {processes} processes in all, expected 1 to {MAX_PROCESSES}."
        )
    return Resources(
        cpus=whole("resources.x-cpus"),
        gpus=whole("resources.x-gpus"),
        gpus_if_any=whole("resources.x-gpus-if-any"),
        memory_mb=whole("resources.x-memory-mb"),
        processes=processes,
    )


def timeout_from_body(who: str, body: Mapping[str, Any]) -> float:
    """Return a command's limit in seconds, 0 for none; raises `InvalidParameter` that names `who`."""
    limit = _setting(body, TIMEOUT)
    try:
        return 0.0 if limit is None else limit_of(limit)
    except InvalidParameter as error:
        raise InvalidParameter(f"{who}: {TIMEOUT}: {error.message}") from error


def _setting(body: Mapping[str, Any], name: str) -> Any:
    """Return what a body says of `section.some_key`, or of `section.someKey`; None where it says nothing."""
    section, key = name.split(".")
    given = body.get(section) or {}
    first, *rest = key.split("_")
    return given.get(key, given.get(first + "".join(word.capitalize() for word in rest)))


def _whole(who: str, name: str, given: Any, least: int = 0) -> int:
    """Return a whole number, the least there may be where none is given; raises `InvalidParameter` that names `who`."""
    value, fault = (least, "") if given is None else parse_value(Input(name, "integer", minimum=least), given)
    if value is None:
        raise InvalidParameter(f"{who}: {fault}")
    return int(value)


def _output_binding(given: Any) -> str:
    """Return `${{parent.outputs.x}}` where an output is bound to the job's, else an empty text."""
    text = str((given.get("value") or given.get("path") or "") if isinstance(given, Mapping) else given or "")
    return text if not isinstance(given, Mapping) or PARENT_OUTPUT.fullmatch(text.strip()) else ""
