"""Planning: from a request to its steps. All faults are found here, at once, before anything is written.

Pure: what has to be looked up (the components that nodes refer to, the machine) comes in as `Facts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mafunzo.control.pipelines.binding import filled, inputs_of
from mafunzo.control.pipelines.command import placeholders
from mafunzo.entities.component import (
    COMPUTE,
    INSTANCES,
    PARENT_INPUT,
    PARENT_OUTPUT,
    PROCESSES,
    STEP_OUTPUT,
    TIMEOUT,
    Component,
    Input,
    Node,
    parse_value,
    unknown_name,
)
from mafunzo.entities.compute import Hardware
from mafunzo.entities.duration import limit_of
from mafunzo.entities.environment import Environment
from mafunzo.entities.job import (
    JOB_NAME,
    MAX_PROCESSES,
    ArtifactInput,
    Job,
    LiteralInput,
    Resources,
    Step,
    StepInput,
    StepOutputInput,
    StepSpec,
    Value,
)
from mafunzo.entities.job_request import JobRequest, RequestInput
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import Faults, InvalidParameter

ACCEPTS = {  # an input's type to the types that may feed it: a model is a folder, and MLflow's kind of model is a model
    "uri_file": ("uri_file",),
    "uri_folder": ("uri_folder", "custom_model", "mlflow_model", "mltable"),
    "custom_model": ("custom_model", "uri_folder", "mlflow_model"),
    "mlflow_model": ("mlflow_model",),
    "mltable": ("mltable",),
}


@dataclass(frozen=True)
class PinnedComponent:
    """A node's component as it is now.

    code: hash of its code and interface. is_trusted: it is ours, and doesn't write to its inputs.
    code_artifact: a user's code folder in the store, where the command works; runtime: the packages that it finds, None for
    Mafunzo's own.
    """

    component: Component
    code: str
    is_trusted: bool = False
    code_artifact: str | None = None
    runtime: Environment | None = None


@dataclass(frozen=True)
class Facts:
    """What was looked up. pinned: a node's `component` (for a job of one component `name:version`) to what it is.

    user: the caller.
    """

    pinned: Mapping[AssetReference | str, PinnedComponent]
    hardware: Hardware
    now: datetime
    user: str = ""


@dataclass(frozen=True)
class _Broken:
    """An input whose fault is reported already, so that what depends on it reports none."""


_JobInput = Value | ArtifactInput | _Broken


def plan(request: JobRequest, facts: Facts) -> tuple[Job, list[Step]]:
    """Return the job and its steps, in an order in which they can run; raises `InvalidParameter` with every fault.

    The request's pipeline is one of commands only, and its files and folders are stored.
    """
    pipeline = request.pipeline if request.pipeline.kind == "pipeline" else _alone(request.pipeline)
    faults = Faults()
    if not JOB_NAME.fullmatch(request.name):
        faults.add(f"the name is '{request.name}', expected letters, digits, '.', '_' and '-', at most 255.")
    job_inputs = _check_inputs(pipeline, request.inputs, faults)
    specs = {name: _step(node, pipeline, job_inputs, facts, faults) for name, node in pipeline.nodes.items()}
    outputs = _outputs(pipeline, facts, faults)
    order = _order({name: _upstream(node) for name, node in pipeline.nodes.items()}, faults)
    faults.require_none(f"Job '{request.name}' can't be planned.")
    job = Job(
        name=request.name,
        display_name=request.display_name or request.name,
        experiment=request.experiment,
        component=f"{request.pipeline.name}:{request.pipeline.version}",
        inputs={name: _plain(value) for name, value in job_inputs.items()},
        outputs=outputs,
        priority=request.priority,
        force_rerun=request.force_rerun,
        continue_on_step_failure=request.continue_on_step_failure,
        tags=request.tags or {},
        sweep=request.sweep,
        created_by=facts.user,
        created_at=facts.now,
        description=request.description,
        user_properties=request.user_properties or {},
        echoes=request.echoes,
    )
    return job, [Step(job=request.name, spec=spec) for name in order if (spec := specs[name]) is not None]


def _alone(component: Component) -> Component:
    """Return a command component as a pipeline of one step with the same inputs and outputs."""
    node = Node(
        name=component.name,
        component=f"{component.name}:{component.version}",
        inputs={name: f"${{{{parent.inputs.{name}}}}}" for name in component.inputs},
        outputs={name: f"${{{{parent.outputs.{name}}}}}" for name in component.outputs},
    )
    return replace(component, kind="pipeline", command="", nodes={component.name: node})


def _check_inputs(
    pipeline: Component, requested: Mapping[str, RequestInput | None], faults: Faults
) -> dict[str, _JobInput]:
    """Return the effective inputs: the request's values, else the defaults; an optional one without a value is left out."""
    canonical = {alias: name for name, declared in pipeline.inputs.items() for alias in (name, *declared.aliases)}
    by_name: dict[str, RequestInput] = {}
    for spelled, value in requested.items():
        name = canonical.get(spelled)
        if name is None:
            faults.add(unknown_name(spelled, canonical))
        elif value is not None and name in by_name:
            faults.add(f"{name} is given twice, also as {spelled}. Give it once.")
        elif value is not None:
            by_name[name] = value
    effective: dict[str, _JobInput] = {}
    for name, declared in pipeline.inputs.items():
        value = by_name.get(name, declared.default)
        if value is None:
            if declared.is_required:
                faults.add(f"{name} is missing, expected {_article(declared.type)}.")
                effective[name] = _Broken()
            continue
        checked, fault = _check(declared, value)
        faults.add(fault)
        effective[name] = checked
    return effective


def _check(declared: Input, value: RequestInput) -> tuple[_JobInput, str]:
    """Return the value as its declared type and an empty text, or `_Broken` and the fault."""
    if isinstance(value, ArtifactInput):
        if not declared.is_path:
            return _Broken(), f"{declared.name} is a file or folder, expected {_article(declared.type)}."
        reason = declared.refused.get("*", "")
        return (_Broken(), f"{declared.name} is given: {reason}") if reason else (value, "")
    if declared.is_path:
        return _Broken(), f"{declared.name} is '{value}', expected {_article(declared.type)} of the store."
    parsed, fault = parse_value(declared, value)
    return (_Broken() if parsed is None else parsed), fault


def _step(
    node: Node, pipeline: Component, job_inputs: Mapping[str, _JobInput], facts: Facts, faults: Faults
) -> StepSpec | None:
    """Return the step of a node, or None with its faults added."""
    where = f"step '{node.name}'"
    if not JOB_NAME.fullmatch(node.name):
        faults.add(f"{where}: its name isn't made of letters, digits, '.', '_' and '-'.")
    pinned = facts.pinned.get(node.component)
    if pinned is None:
        faults.add(f"{where}: component '{node.component}' isn't known.")
        return None
    component = pinned.component
    if component.kind != "command":
        faults.add(f"{where}: '{node.component}' is a pipeline; a pipeline's steps are command components.")
        return None
    inputs: dict[str, StepInput] = {}
    unbound = set(component.inputs)
    for name, written in node.inputs.items():
        if name not in component.inputs:
            faults.add(f"{where}: {unknown_name(name, component.inputs)}")
            continue
        bound = _bind(component.inputs[name], written, pipeline, job_inputs, facts, where, faults)
        if bound is not None:
            unbound.discard(name)
        if isinstance(bound, LiteralInput | ArtifactInput | StepOutputInput):
            inputs[name] = bound
    for name in unbound:
        declared = component.inputs[name]
        if declared.default is not None:
            value, fault = parse_value(declared, declared.default)
            faults.add(f"{where}: {fault}" if fault else "")
            inputs[name] = LiteralInput(declared.default if value is None else value)
        elif declared.is_required:
            faults.add(f"{where}: {name} is missing, expected {_article(declared.type)}.{_source(node, name)}")
    broken = {name for name in component.inputs if name not in unbound and name not in inputs}
    _check_command(component, {*inputs, *broken}, where, faults)
    numbers = _bound_numbers(node, job_inputs, where, faults)
    resources = _multiplied(node.resources or component.resources, node, numbers)
    return StepSpec(
        name=node.name,
        component=f"{component.name}:{component.version}",
        code=pinned.code,
        command=component.command,
        inputs={name: inputs[name] for name in component.inputs if name in inputs},
        outputs={name: output.type for name, output in component.outputs.items()},
        environment={**component.environment, **node.environment},
        resources=_resources(resources, facts.hardware, where, faults),
        is_deterministic=component.is_deterministic,
        is_trusted=pinned.is_trusted,
        retries=node.retries,
        code_artifact=pinned.code_artifact,
        runtime=pinned.runtime,
        destinations=node.destinations,
        timeout_s=numbers.get(TIMEOUT, node.timeout_s),
    )


def _bind(
    declared: Input,
    written: Any,
    pipeline: Component,
    job_inputs: Mapping[str, _JobInput],
    facts: Facts,
    where: str,
    faults: Faults,
) -> StepInput | _Broken | None:
    """Return what feeds a step's input; None for an optional input of the job without a value."""
    if written is None:
        return None
    text = written.strip() if isinstance(written, str) else ""
    if match := STEP_OUTPUT.fullmatch(text):
        return _bind_output(declared, match[1], match[2], pipeline, facts, where, faults)
    if match := PARENT_INPUT.fullmatch(text):
        source = pipeline.inputs.get(match[1])
        if source is None:
            faults.add(
                f"{where}: {declared.name} comes from the job's input {match[1]}, but {_unknown(match[1], pipeline)}"
            )
            return _Broken()
        if not _can_feed(source.type, declared.type):
            faults.add(_mismatch(where, declared, f"the job's input {source.name}", source.type))
            return _Broken()
        if source.name not in job_inputs:
            return None
        written = job_inputs[source.name]
    elif isinstance(written, str) and "${{" in written:
        written = _filled(f"{where}: {declared.name}", written, job_inputs, faults)
    if isinstance(written, _Broken):
        return written
    checked, fault = _check(declared, written)
    if isinstance(checked, _Broken):
        faults.add(f"{where}: {fault}")
        return checked
    return checked if isinstance(checked, ArtifactInput) else LiteralInput(checked)


def _filled(who: str, text: str, job_inputs: Mapping[str, _JobInput], faults: Faults) -> str | _Broken:
    """Return a text with the job's values in the place of its bindings, or its fault added."""
    if any(isinstance(job_inputs.get(name), _Broken) for name in inputs_of(text)):
        return _Broken()
    whole, fault = filled(text, job_inputs)
    faults.add(f"{who} {fault}" if fault else "")
    return _Broken() if fault else whole


def _bind_output(
    declared: Input, step: str, output: str, pipeline: Component, facts: Facts, where: str, faults: Faults
) -> StepOutputInput | _Broken:
    source = pipeline.nodes.get(step)
    if source is None:
        hint = unknown_name(step, pipeline.nodes).partition("parameter.")[2]
        faults.add(f"{where}: {declared.name} comes from step '{step}', which the job doesn't have.{hint}")
        return _Broken()
    pinned = facts.pinned.get(source.component)
    if pinned is None:  # reported at that step
        return _Broken()
    source_output = pinned.component.outputs.get(output)
    if source_output is None:
        hint = unknown_name(output, pinned.component.outputs).partition("parameter.")[2]
        faults.add(
            f"{where}: {declared.name} comes from output {output} of step '{step}', which has none of that name.{hint}"
        )
        return _Broken()
    if not _can_feed(source_output.type, declared.type):
        faults.add(_mismatch(where, declared, f"output {output} of step '{step}'", source_output.type))
        return _Broken()
    return StepOutputInput(step, output)


def _can_feed(source: str, target: str) -> bool:
    """Literals feed literals (their values are checked), files and folders what accepts them."""
    return source in ACCEPTS[target] if target in ACCEPTS else source not in ACCEPTS


def _mismatch(where: str, declared: Input, source: str, kind: str) -> str:
    return f"{where}: {declared.name} takes {_article(declared.type)}, but {source} is {_article(kind)}."


def _unknown(name: str, pipeline: Component) -> str:
    return unknown_name(name, pipeline.inputs).replace("is not a parameter", "is not an input of it")


def _source(node: Node, name: str) -> str:
    match = PARENT_INPUT.fullmatch(str(node.inputs.get(name, "")).strip())
    return f" It comes from the job's input {match[1]}: give that one." if match else ""


def _check_command(component: Component, present: set[str], where: str, faults: Faults) -> None:
    """A command may use declared names only, and one that isn't given only in an optional block."""
    try:
        used = placeholders(component.command)
    except InvalidParameter as error:
        faults.add(*(f"{where}: {fault}" for fault in error.faults))
        return
    for use in used:
        known: Mapping[str, Any] = component.inputs if use.kind == "inputs" else component.outputs
        if use.name not in known:
            faults.add(f"{where}: its command uses {use.kind}.{use.name}, which the component doesn't declare.")
        elif (
            use.kind == "inputs"
            and not use.is_optional
            and use.name not in present
            and component.inputs[use.name].is_optional
        ):
            faults.add(
                f"{where}: its command needs {use.name}, which is optional and wasn't given. "
                f"Write $[[... ${{{{inputs.{use.name}}}}}]] around it."
            )


def _bound_numbers(node: Node, job_inputs: Mapping[str, _JobInput], where: str, faults: Faults) -> dict[str, float]:
    """Return the counts and the limit of a step that are bound to the job's inputs, without those that have a fault."""
    numbers: dict[str, float] = {}
    for name, written in node.bound.items():
        text = _Broken() if name == COMPUTE else _filled(f"{where}: {name}", written, job_inputs, faults)
        if isinstance(text, _Broken):
            continue
        number, fault = _number(name, text)
        if number is None:
            faults.add(f"{where}: {fault}")
        else:
            numbers[name] = number
    return numbers


def _number(name: str, text: str) -> tuple[float | None, str]:
    """Return a count, or a limit in seconds, and an empty text, or None and the fault."""
    if name != TIMEOUT:
        count, fault = parse_value(Input(name, "integer", minimum=1), text)
        return None if count is None else float(count), fault
    try:
        return limit_of(text), ""
    except InvalidParameter as error:
        return None, f"{name}: {error.message}"


def _multiplied(resources: Resources, node: Node, counts: Mapping[str, float]) -> Resources:
    """Return resources with the processes of a distributed step times the counts that are bound."""
    if not node.is_distributed:
        return resources
    return replace(
        resources, processes=resources.processes * int(counts.get(INSTANCES, 1)) * int(counts.get(PROCESSES, 1))
    )


def _resources(resources: Resources, hardware: Hardware, where: str, faults: Faults) -> Resources:
    """Return what the step will hold: no more cores than there are (0 means all), never fewer GPUs or memory than requested."""
    if resources.gpus > len(hardware.gpus):
        faults.add(f"{where}: it needs {resources.gpus} GPUs, this machine has {len(hardware.gpus)}.")
    if resources.memory_mb > hardware.memory_mb:
        faults.add(f"{where}: it needs {resources.memory_mb} MB of memory, this machine has {hardware.memory_mb} MB.")
    if not 1 <= resources.processes <= MAX_PROCESSES:
        faults.add(f"{where}: it runs as {resources.processes} processes, expected 1 to {MAX_PROCESSES}.")
    gpus = max(resources.gpus, min(resources.gpus_if_any, len(hardware.gpus)))
    return replace(resources, cpus=min(resources.cpus, hardware.cpus) or hardware.cpus, gpus=gpus, gpus_if_any=0)


def _outputs(pipeline: Component, facts: Facts, faults: Faults) -> dict[str, StepOutputInput]:
    """Return which step's output each of the job's outputs is."""
    sources: dict[str, StepOutputInput] = {}
    for node in pipeline.nodes.values():
        pinned = facts.pinned.get(node.component)
        for output, written in node.outputs.items():
            where = f"step '{node.name}': its output {output}"
            match = PARENT_OUTPUT.fullmatch(written.strip())
            if pinned is not None and output not in pinned.component.outputs:
                hint = unknown_name(output, pinned.component.outputs).partition("parameter.")[2]
                faults.add(f"{where} isn't one of its component.{hint}")
            elif match is None:
                faults.add(f"{where} is bound to '{written}', expected ${{{{parent.outputs.<name>}}}}.")
            elif match[1] not in pipeline.outputs:
                faults.add(f"{where} is bound to {match[1]}, which is not an output of the job.")
            elif match[1] in sources:
                faults.add(f"{where} is bound to {match[1]}, which step '{sources[match[1]].step}' writes already.")
            elif pinned is not None:
                kind, target = pinned.component.outputs[output].type, pipeline.outputs[match[1]].type
                if not _can_feed(kind, target):
                    faults.add(f"{where} is {_article(kind)}, but the job's output {match[1]} is {_article(target)}.")
                sources[match[1]] = StepOutputInput(node.name, output)
            else:
                sources[match[1]] = StepOutputInput(node.name, output)
    faults.add(*(f"no step writes the job's output {name}." for name in pipeline.outputs if name not in sources))
    return {name: sources[name] for name in pipeline.outputs if name in sources}


def _upstream(node: Node) -> set[str]:
    """Return the steps whose outputs a node takes."""
    matches = [STEP_OUTPUT.fullmatch(value.strip()) for value in node.inputs.values() if isinstance(value, str)]
    return {match[1] for match in matches if match}


def _order(upstream: Mapping[str, set[str]], faults: Faults) -> list[str]:
    """Return the steps so that each comes after those that it needs, otherwise as written."""
    ordered: list[str] = []
    left = {name: needs & set(upstream) for name, needs in upstream.items()}
    while left:
        ready = next((name for name, needs in left.items() if needs <= set(ordered)), None)
        if ready is None:
            faults.add(f"steps {_cycle(left)} wait for one another.")
            return []
        ordered.append(ready)
        del left[ready]
    return ordered


def _cycle(left: Mapping[str, set[str]]) -> str:
    """Return one cycle among steps that can't be ordered, as `a -> b -> a`, each needing the next."""
    path = [next(iter(left))]
    while path[-1] not in path[:-1]:
        path.append(min(left[path[-1]] & set(left)))
    return " -> ".join(path[path.index(path[-1]) :])


def _article(kind: str) -> str:
    names = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
    return names.get(kind, f"an {kind}" if kind in ("mlflow_model", "mltable") else f"a {kind}")


def _plain(value: _JobInput) -> Any:
    """Return an input as JSON can hold it."""
    return {"artifact": value.artifact, "name": value.name} if isinstance(value, ArtifactInput) else value
