"""A component's YAML file (`x.yml`) as a `Component`: the schema that the control plane and the compute plane share.

It is Azure ML's component schema, whose words users know. Keys of our own begin with `x-`: `x-refused`, `x-aliases`,
`x-exclusive-minimum`, `x-cpus`, `x-gpus` (it can't run with fewer), `x-gpus-if-any` (it runs with fewer too), `x-memory-mb`,
`x-retries`. A component that doesn't state `x-cpus` has all cores to itself, as a step has its node on Azure.
"""

from collections.abc import Callable, Container, Mapping
from typing import Any

from mafunzo.entities.component import (
    COMPUTE,
    INSTANCES,
    LITERAL_TYPES,
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
from mafunzo.entities.job import MAX_PROCESSES, Resources
from mafunzo.entities.reference import path_input
from mafunzo.errors import Faults, InvalidFile, InvalidParameter, NotSupported

NODE_TYPES = ("command", "pipeline")
DISTRIBUTIONS = ("pytorch", "mpi")
"""The ways in which a command's processes run side by side."""
NodeReader = Callable[[str, Mapping[str, Any]], Node]


def node_from_dict(name: str, body: Mapping[str, Any]) -> Node:
    """Read a node of a pipeline, whose component is one that ships.

    Raises `NotSupported` for a kind of node that doesn't run here, `InvalidParameter` for a number that isn't one.
    """
    who = f"Node '{name}'"
    kind = str(body.get("type") or NODE_TYPES[0])
    if kind not in NODE_TYPES:
        raise NotSupported(f"{who} is of the type {kind}. Nodes of commands and pipelines run here.")
    bound = _bindings(body)
    return Node(
        name=name,
        component=str(body.get("component") or ""),
        inputs={key: input_from_dict(value) for key, value in (body.get("inputs") or {}).items()},
        outputs={key: str(text) for key, text in (body.get("outputs") or {}).items() if text},
        resources=resources_from_dict(who, body, bound) if body.get("resources") or body.get("distribution") else None,
        retries=_whole(who, "x-retries", body.get("x-retries")),
        environment=_texts(body.get("environment_variables")),
        timeout_s=0.0 if TIMEOUT in bound else timeout_from_dict(who, body),
        bound=bound,
        is_distributed=bool(body.get("distribution")),
        display_name=str(body.get("display_name") or body.get("displayName") or ""),
    )


def component_from_dict(body: Mapping[str, Any], where: str, read_node: NodeReader = node_from_dict) -> Component:
    """Build a component from its parsed YAML; `where` names the file in errors, `read_node` reads a pipeline's nodes.

    Raises `InvalidFile` with all faults of its interface, `InvalidParameter` for a number among its resources.
    """
    faults = Faults()
    kind = body.get("type", "command")
    if kind not in ("command", "pipeline"):
        faults.add(f"type is '{kind}', expected command or pipeline.")
    for key in ("name", "command" if kind == "command" else "jobs"):
        if not body.get(key):
            faults.add(f"{key} is missing.")
    inputs = {name: _input(name, spec or {}, faults) for name, spec in (body.get("inputs") or {}).items()}
    outputs = {name: _output(name, spec or {}, faults) for name, spec in (body.get("outputs") or {}).items()}
    faults.require_none(f"{where}: not a component that can be used.", InvalidFile)
    return Component(
        name=str(body["name"]),
        version=str(body.get("version") or "1"),
        kind=kind,
        display_name=str(body.get("display_name") or body["name"]),
        description=str(body.get("description") or ""),
        inputs=inputs,
        outputs=outputs,
        command=str(body.get("command", "")).strip() if kind == "command" else "",
        nodes={name: read_node(name, node) for name, node in (body.get("jobs") or {}).items()},
        resources=resources_from_dict(where, body),
        environment=_texts(body.get("environment_variables")),
        is_deterministic=_is_true(body.get("is_deterministic", True)),
        tags=_texts(body.get("tags")),
    )


def input_from_dict(written: Any) -> Any:
    """Return an input's value or binding as written, or the path that it names; None for one that isn't given."""
    if not isinstance(written, Mapping):
        return written
    if "value" in written:
        return written["value"]
    path = written.get("path")
    if path is None or "${{" in str(path):
        return path
    return path_input(str(path), str(written.get("type") or "uri_folder"))


def resources_from_dict(who: str, body: Mapping[str, Any], bound: Container[str] = ()) -> Resources:
    """Return what a command holds. A distributed one runs the processes of all its instances here, side by side.

    `bound` names what of it isn't known yet, which counts as one. Raises `InvalidParameter` that names `who`, `NotSupported`
    for another way to distribute than PyTorch's and MPI's.
    """

    def whole(name: str, least: int = 0) -> int:
        return _whole(who, name, None if name in bound else _setting(body, name), least)

    require_distribution(who, body.get("distribution") or {}, bound)
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


def require_distribution(who: str, distribution: Mapping[str, Any], bound: Container[str] = ()) -> None:
    """Raise `NotSupported` for a distribution whose processes wouldn't find one another here.

    One of TensorFlow with one worker and no parameter server is what happens anyway: one process.
    """
    kind = str(distribution.get("type") or distribution.get("distribution_type") or DISTRIBUTIONS[0])
    if kind.lower() in DISTRIBUTIONS:
        return
    workers, servers = distribution.get("worker_count"), distribution.get("parameter_server_count")
    is_alone = workers in (None, 1) and servers in (None, 0) and INSTANCES not in bound
    if kind.lower() == "tensorflow" and is_alone:
        return
    name = {"tensorflow": "TensorFlowDistribution", "ray": "RayDistribution"}.get(kind.lower(), f"'{kind}'")
    raise NotSupported(
        f"{who}: the distribution {name} isn't supported: its processes aren't told of one another here. Leave it out to run "
        "one process, or use PyTorchDistribution or MpiDistribution with process_count_per_instance."
    )


def timeout_from_dict(who: str, body: Mapping[str, Any]) -> float:
    """Return a command's limit in seconds, 0 for none; raises `InvalidParameter` that names `who`."""
    limit = _setting(body, TIMEOUT)
    try:
        return 0.0 if limit is None else limit_of(limit)
    except InvalidParameter as error:
        raise InvalidParameter(f"{who}: {TIMEOUT}: {error.message}") from error


def _input(name: str, spec: Mapping[str, Any], faults: Faults) -> Input:
    kind = str(spec.get("type", "string")).lower()
    if kind not in LITERAL_TYPES + PATH_TYPES:
        faults.add(f"input {name} has the type '{kind}', expected one of {', '.join(LITERAL_TYPES + PATH_TYPES)}.")
    return Input(
        name=name,
        type=kind,
        description=str(spec.get("description") or "").strip(),
        is_optional=_is_true(spec.get("optional", False)),
        default=spec.get("default"),
        enum=tuple(str(value) for value in spec.get("enum") or ()),
        minimum=_bound(name, spec, "min", faults),
        maximum=_bound(name, spec, "max", faults),
        exclusive_minimum=spec.get("x-exclusive-minimum"),
        refused=_texts(spec.get("x-refused")),
        aliases=tuple(spec.get("x-aliases") or ()),
    )


def _bound(name: str, spec: Mapping[str, Any], key: str, faults: Faults) -> float | None:
    """Return a bound, which Azure's SDK writes as a text."""
    try:
        return None if spec.get(key) is None else float(spec[key])
    except (TypeError, ValueError):
        faults.add(f"input {name} has {key} {spec[key]!r}, expected a number.")
        return None


def _output(name: str, spec: Mapping[str, Any], faults: Faults) -> Output:
    kind = str(spec.get("type", "uri_folder")).lower()
    if kind not in PATH_TYPES:
        faults.add(f"output {name} has the type '{kind}', expected one of {', '.join(PATH_TYPES)}.")
    return Output(name=name, type=kind, description=str(spec.get("description") or "").strip())


def _bindings(body: Mapping[str, Any]) -> dict[str, str]:
    """Return what of a node is bound to inputs besides its own inputs, as written."""
    settings = {name: _setting(body, name) for name in (INSTANCES, PROCESSES, TIMEOUT)}
    settings[COMPUTE] = body.get(COMPUTE)
    return {name: text for name, text in settings.items() if isinstance(text, str) and "${{" in text}


def _setting(body: Mapping[str, Any], name: str) -> Any:
    """Return the value of `section.key`; None where there is none."""
    section, key = name.split(".")
    return (body.get(section) or {}).get(key)


def _whole(who: str, name: str, value: Any, least: int = 0) -> int:
    """Return a whole number, the least there may be where none is given; raises `InvalidParameter` that names `who`."""
    number, fault = (least, "") if value is None else parse_value(Input(name, "integer", minimum=least), value)
    if number is None:
        raise InvalidParameter(f"{who}: {fault}")
    return int(number)


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in (values or {}).items()}


def _is_true(value: Any) -> bool:
    """Return whether a truth value, as such or as a text, says yes."""
    return str(value).lower() == "true"
