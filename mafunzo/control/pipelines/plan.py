"""Planning: from a request to its steps. All faults are found here, at once, before anything is written.

Pure: what has to be looked up (the components that nodes refer to, the machine) comes in as `Facts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mafunzo.control.pipelines.binding import (
    Broken,
    Sources,
    WrittenOutputs,
    article,
    as_json,
    can_feed,
    check_inputs,
    near_name,
    upstream_of,
)
from mafunzo.control.pipelines.command import PLACEHOLDER, REFERENCE, placeholders
from mafunzo.control.pipelines.sweep import draw, seeded
from mafunzo.entities.component import (
    COMPUTE,
    INSTANCES,
    PARENT_INPUT,
    PARENT_OUTPUT,
    PROCESSES,
    TIMEOUT,
    Component,
    Input,
    Node,
    parse_value,
    unknown_name,
)
from mafunzo.entities.compute import ClusterNode, Hardware, Placement
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
from mafunzo.entities.job_request import JobRequest
from mafunzo.entities.parameters.component import ESTIMATE, FETCHING
from mafunzo.entities.parameters.machine import (
    no_node,
    placement_faults,
    training_faults,
    training_placement,
    training_resources,
)
from mafunzo.entities.parameters.parameter import FINETUNE, PACKAGE_MODEL
from mafunzo.entities.parameters.table import parameters_of
from mafunzo.entities.reference import AssetReference, parse_reference
from mafunzo.entities.sweep import Sweep
from mafunzo.errors import Faults, InvalidParameter

DRIVER = Resources(cpus=1)
"""What a step holds of this machine that runs on a cluster."""
JOB_COMPUTES = (COMPUTE, "default_compute")
"""Who names the compute of a job as a whole."""
TRAINING_STEPS = (FINETUNE, ESTIMATE)
"""The components that take optimizer steps, an estimate as many processes for a few as the run for all."""

STAYING = (*FETCHING, PACKAGE_MODEL)
"""The components that never run on a Ray cluster: what they read is on this machine alone."""


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

    user: the caller. clusters: the nodes of each Ray cluster that the job names, by the compute's name.
    """

    pinned: Mapping[AssetReference | str, PinnedComponent]
    hardware: Hardware
    now: datetime
    user: str = ""
    clusters: Mapping[str, Sequence[ClusterNode]] = field(default_factory=dict)


def plan(request: JobRequest, facts: Facts) -> tuple[Job, list[Step]]:
    """Return the job and its steps, in an order in which they can run; raises `InvalidParameter` with every fault.

    The request's pipeline is one of commands only, and its files and folders are stored.
    """
    pipeline = request.pipeline if request.pipeline.kind == "pipeline" else _alone(request.pipeline)
    faults = Faults()
    if not JOB_NAME.fullmatch(request.name):
        faults.add(f"the name is '{request.name}', expected letters, digits, '.', '_' and '-', at most 255.")
    job_inputs = check_inputs(pipeline, request.inputs, faults)
    pinned = {name: facts.pinned.get(node.component) for name, node in pipeline.nodes.items()}
    written = {name: None if known is None else known.component.outputs for name, known in pinned.items()}
    sources = Sources(pipeline.inputs, job_inputs, written)
    specs: dict[str, list[StepSpec]] = {}
    for name, node in pipeline.nodes.items():
        own_faults = Faults(f"step '{name}': ")
        named = [request.computes.get(who, "") for who in (f"{COMPUTE} of '{name}'", *JOB_COMPUTES)]
        node = replace(node, bound={COMPUTE: next(filter(None, named), ""), **node.bound})
        specs[name] = _steps(node, pinned[name], sources, facts, own_faults)
        faults.add(*own_faults)
    placed = {spec.placement.compute for steps in specs.values() for spec in steps if spec.placement is not None}
    of_job = [(who, name) for who, name in request.computes.items() if who in JOB_COMPUTES and name in facts.clusters]
    faults.add(*(_misplaced(who, name) for who, name in of_job if name not in placed))
    outputs = _outputs(pipeline, written, faults)
    order = _order({name: upstream_of(node) for name, node in pipeline.nodes.items()}, faults)
    faults.require_none(f"Job '{request.name}' can't be planned.")
    job = Job(
        name=request.name,
        display_name=request.display_name or request.name,
        experiment=request.experiment,
        component=f"{request.pipeline.name}:{request.pipeline.version}",
        inputs={name: as_json(value) for name, value in job_inputs.items()},
        outputs=outputs,
        priority=request.priority,
        force_rerun=request.force_rerun,
        continue_on_step_failure=request.continue_on_step_failure,
        tags=request.tags or {},
        sweep=_within_clusters(request.sweep, specs, facts),
        created_by=facts.user,
        created_at=facts.now,
        description=request.description,
        user_properties=request.user_properties or {},
        echoes=request.echoes,
    )
    return job, [Step(job=request.name, spec=spec) for name in order for spec in specs[name]]


def _alone(component: Component) -> Component:
    """Return a command component as a pipeline of one step with the same inputs and outputs."""
    node = Node(
        name=component.name,
        component=f"{component.name}:{component.version}",
        inputs={name: f"${{{{parent.inputs.{name}}}}}" for name in component.inputs},
        outputs={name: f"${{{{parent.outputs.{name}}}}}" for name in component.outputs},
    )
    return replace(component, kind="pipeline", command="", nodes={component.name: node})


def _steps(
    node: Node, pinned: PinnedComponent | None, sources: Sources, facts: Facts, faults: Faults
) -> list[StepSpec]:
    """Return the step of a node; of one that is a sweep its trials, and the step that takes the best one's outputs.

    None with its faults added; what is wrong with one trial is wrong with each, and is told once.
    """
    if node.sweep is None or pinned is None:
        step = _step(node, pinned, sources, facts, faults)
        return [] if step is None else [step]
    sweep, trials = seeded(node.sweep), list[StepSpec]()
    whole = node.resources or pinned.component.resources
    resources = replace(whole, cpus=whole.cpus or max(1, facts.hardware.cpus // sweep.max_parallel))
    for number, values in enumerate(draw(sweep)):
        name = f"{node.name}.trial_{number}"
        named = replace(node, name=name, inputs={**node.inputs, **values}, resources=resources, display_name="")
        trial = _step(named, pinned, sources, facts, faults)
        if trial is None or faults:
            return []
        trials.append(replace(trial, trial_of=node.name))
    return [*trials, _sweep_step(node, _within_cluster(sweep, trials[0], facts), trials[0])]


def _within_clusters(sweep: Sweep | None, specs: Mapping[str, Sequence[StepSpec]], facts: Facts) -> Sweep | None:
    """Return the sweep that a whole job is, of whose trials each is a step."""
    trials = [spec for steps in specs.values() for spec in steps]
    return sweep if sweep is None or not trials else _within_cluster(sweep, trials[0], facts)


def _within_cluster(sweep: Sweep, trial: StepSpec, facts: Facts) -> Sweep:
    """Return a sweep with no more trials side by side than its cluster has nodes for: a trial has its nodes to itself."""
    if trial.placement is None or not facts.clusters[trial.placement.compute]:
        return sweep
    at_once = len(facts.clusters[trial.placement.compute]) // trial.placement.nodes
    return replace(sweep, max_parallel=min(sweep.max_parallel, max(1, at_once)))


def _sweep_step(node: Node, sweep: Sweep, trial: StepSpec) -> StepSpec:
    """Return the step that takes the outputs of the best trial, as one of the trials is but for the values that differ."""
    inputs = {name: source for name, source in trial.inputs.items() if name not in sweep.space}
    return replace(
        trial, name=node.name, inputs=inputs, display_name=node.display_name, timeout_s=0.0, trial_of="", sweep=sweep
    )


def _step(
    node: Node, pinned: PinnedComponent | None, sources: Sources, facts: Facts, faults: Faults
) -> StepSpec | None:
    """Return the step of a node, or None with its faults added."""
    if not JOB_NAME.fullmatch(node.name):
        faults.add("its name isn't made of letters, digits, '.', '_' and '-'.")
    if pinned is None:
        faults.add(f"component '{node.component}' isn't known.")
        return None
    component = pinned.component
    if component.kind != "command":
        faults.add(f"'{node.component}' is a pipeline; a pipeline's steps are command components.")
        return None
    inputs: dict[str, StepInput] = {}
    unbound = set(component.inputs)
    for name, written in node.inputs.items():
        if name not in component.inputs:
            faults.add(unknown_name(name, component.inputs))
            continue
        bound = sources.bind(component.inputs[name], written, faults)
        if bound is not None:
            unbound.discard(name)
        if isinstance(bound, LiteralInput | ArtifactInput | StepOutputInput):
            inputs[name] = bound
    for name in unbound:
        declared = component.inputs[name]
        if declared.default is not None:
            value, fault = parse_value(declared, declared.default)
            faults.add(fault)
            inputs[name] = LiteralInput(declared.default if value is None else value)
        elif declared.is_required:
            faults.add(f"{name} is missing, expected {article(declared.type)}.{_source(node, name)}")
    _check_command(component, set(component.inputs) - unbound | set(inputs), faults)
    numbers = _bound_numbers(node, sources, faults)
    resources = _multiplied(node.resources or component.resources, node, numbers)
    held = _resources(resources, facts.hardware, faults)
    compute, placement = _compute(node, sources), None
    values = {name: source.value for name, source in inputs.items() if isinstance(source, LiteralInput)}
    if compute in facts.clusters and pinned.is_trusted and component.name not in STAYING:
        held = DRIVER
        placement = _placed(component.name, compute, values, facts.clusters[compute], faults)
    elif compute in facts.clusters and not (pinned.is_trusted and component.name == PACKAGE_MODEL):
        faults.add(_misplaced(COMPUTE, compute))
    elif pinned.is_trusted and component.name in TRAINING_STEPS and held.processes == 1:
        held = _for_training(held, values, facts.hardware, faults)
    return StepSpec(
        name=node.name,
        component=f"{component.name}:{component.version}",
        code=pinned.code,
        command=component.command,
        inputs={name: inputs[name] for name in component.inputs if name in inputs},
        outputs={name: output.type for name, output in component.outputs.items()},
        environment=_environment({**component.environment, **node.environment}, component, sources, faults),
        display_name=node.display_name,
        resources=held,
        is_deterministic=component.is_deterministic,
        is_trusted=pinned.is_trusted,
        retries=node.retries,
        code_artifact=pinned.code_artifact,
        runtime=pinned.runtime,
        destinations=node.destinations,
        timeout_s=numbers.get(TIMEOUT, node.timeout_s),
        placement=placement,
    )


def _compute(node: Node, sources: Sources) -> str:
    """Return the name of the compute that a node names; empty for none. What is wrong with it is told where it is looked up."""
    text = sources.filled(COMPUTE, node.bound.get(COMPUTE, ""), Faults())
    reference = None if isinstance(text, Broken) else parse_reference(text.strip())
    return reference.name if isinstance(reference, AssetReference) else "" if isinstance(text, Broken) else text.strip()


def _misplaced(who: str, compute: str) -> str:
    return (
        f"{who} is '{compute}', a Ray cluster, on which only Mafunzo's own steps run, but no {' or '.join(STAYING)}. "
        "Use local here, and name the cluster in compute_finetune."
    )


def _placed(
    component: str, compute: str, values: Mapping[str, Value], nodes: Sequence[ClusterNode], faults: Faults
) -> Placement:
    """Return where a step runs on a cluster: on one node, unless it trains. A value with a fault counts as its default."""
    if component not in TRAINING_STEPS:
        faults.add("" if nodes else no_node(compute))
        return Placement(compute)
    values = {**{one.name: one.default for one in parameters_of(FINETUNE) if one.default is not None}, **values}
    placement = training_placement(compute, values)
    faults.add(*placement_faults(placement, values, nodes))
    return placement


def _source(node: Node, name: str) -> str:
    match = PARENT_INPUT.fullmatch(str(node.inputs.get(name, "")).strip())
    return f" It comes from the job's input {match[1]}: give that one." if match else ""


def _check_command(component: Component, present: set[str], faults: Faults) -> None:
    """A command may use declared names only, and one that isn't given only in an optional block."""
    for use in faults.attempt(lambda: placeholders(component.command), []):
        known: Mapping[str, Any] = component.inputs if use.kind == "inputs" else component.outputs
        if use.name not in known:
            faults.add(f"its command uses {use.kind}.{use.name}, which the component doesn't declare.")
        elif (
            use.kind == "inputs"
            and not use.is_optional
            and use.name not in present
            and component.inputs[use.name].is_optional
        ):
            faults.add(
                f"its command needs {use.name}, which is optional and wasn't given. "
                f"Write $[[... ${{{{inputs.{use.name}}}}}]] around it."
            )


def _environment(
    variables: Mapping[str, str], component: Component, sources: Sources, faults: Faults
) -> dict[str, str]:
    """Return a step's variables with the job's inputs in them; what they take of the step's own is filled in at its start."""
    texts = {}
    for name, written in variables.items():
        text = sources.filled(name, written, faults) if PARENT_INPUT.search(written) else written
        for use in () if isinstance(text, Broken) else PLACEHOLDER.findall(text):
            match = REFERENCE.fullmatch(use)
            known = {"inputs": component.inputs, "outputs": component.outputs}
            if match is None or match[2] not in known[match[1]]:
                expected = ", ".join(f"inputs.{one}" for one in component.inputs) or "a value"
                faults.add(f"environment variable {name} has ${{{{{use}}}}}, expected {expected}.")
        texts[name] = "" if isinstance(text, Broken) else text
    return texts


def _bound_numbers(node: Node, sources: Sources, faults: Faults) -> dict[str, float]:
    """Return the counts and the limit of a step that are bound to the job's inputs, without those that have a fault."""
    numbers: dict[str, float] = {}
    for name, written in node.bound.items():
        text = Broken() if name == COMPUTE else sources.filled(name, written, faults)
        if not isinstance(text, Broken):
            number, fault = _number(name, text)
            faults.add(fault)
            numbers |= {} if number is None else {name: number}
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


def _resources(resources: Resources, hardware: Hardware, faults: Faults) -> Resources:
    """Return what the step will hold: no more cores than there are (0 means all), never fewer GPUs or memory than requested."""
    if resources.gpus > len(hardware.gpus):
        faults.add(f"it needs {resources.gpus} GPUs, this machine has {len(hardware.gpus)}.")
    if resources.memory_mb > hardware.memory_mb:
        faults.add(f"it needs {resources.memory_mb} MB of memory, this machine has {hardware.memory_mb} MB.")
    if not 1 <= resources.processes <= MAX_PROCESSES:
        faults.add(f"it runs as {resources.processes} processes, expected 1 to {MAX_PROCESSES}.")
    gpus = max(resources.gpus, min(resources.gpus_if_any, len(hardware.gpus)))
    return replace(resources, cpus=min(resources.cpus, hardware.cpus) or hardware.cpus, gpus=gpus, gpus_if_any=0)


def _for_training(held: Resources, values: Mapping[str, Value], hardware: Hardware, faults: Faults) -> Resources:
    """Return what a step holds that trains: a value with a fault of its own counts as its default."""
    values = {**{one.name: one.default for one in parameters_of(FINETUNE) if one.default is not None}, **values}
    held = training_resources(held, values, hardware)
    faults.add(*training_faults(held, values, hardware))
    return held


def _outputs(pipeline: Component, written: WrittenOutputs, faults: Faults) -> dict[str, StepOutputInput]:
    """Return which step's output each of the job's outputs is."""
    sources: dict[str, StepOutputInput] = {}
    for node in pipeline.nodes.values():
        outputs = written[node.name]
        for output, text in node.outputs.items():
            where = f"step '{node.name}': its output {output}"
            match = PARENT_OUTPUT.fullmatch(text.strip())
            if outputs is not None and output not in outputs:
                faults.add(f"{where} isn't one of its component.{near_name(output, outputs)}")
            elif match is None:
                faults.add(f"{where} is bound to '{text}', expected ${{{{parent.outputs.<name>}}}}.")
            elif match[1] not in pipeline.outputs:
                faults.add(f"{where} is bound to {match[1]}, which is not an output of the job.")
            elif match[1] in sources:
                faults.add(f"{where} is bound to {match[1]}, which step '{sources[match[1]].step}' writes already.")
            else:
                kind, target = outputs[output].type if outputs else None, pipeline.outputs[match[1]].type
                if kind is not None and not can_feed(kind, target):
                    faults.add(f"{where} is {article(kind)}, but the job's output {match[1]} is {article(target)}.")
                sources[match[1]] = StepOutputInput(node.name, output)
    faults.add(*(f"no step writes the job's output {name}." for name in pipeline.outputs if name not in sources))
    return {name: sources[name] for name in pipeline.outputs if name in sources}


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
