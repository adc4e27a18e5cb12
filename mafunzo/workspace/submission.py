"""A job of the user's own components, or of several: all that it names is looked up, and it becomes one flat pipeline."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mafunzo.entities.component import COMPUTE, PARENT_INPUT, PARENT_OUTPUT, Component, Node, Output
from mafunzo.entities.job import DEFAULT_OUTPUT, ArtifactInput, Destination
from mafunzo.entities.reference import AssetReference, PathInput, parse_reference, path_input
from mafunzo.entities.sweep import Sweep
from mafunzo.errors import InvalidParameter, UsageError
from mafunzo.pipelines.binding import filled
from mafunzo.pipelines.flatten import Flat, flatten
from mafunzo.pipelines.plan import Facts, PinnedComponent, PlanRequest
from mafunzo.pipelines.sweep import draw, with_trials
from mafunzo.wire.azureml.component import Source
from mafunzo.wire.azureml.job import JobRequest, compute_name
from mafunzo.workspace.component import shipped, shipped_names
from mafunzo.workspace.compute import Computes
from mafunzo.workspace.model_source import Upload
from mafunzo.workspace.reference import stored
from mafunzo.workspace.request import Draft, attempt, drafted
from mafunzo.workspace.services import Services
from mafunzo.workspace.user_component import Components

T = TypeVar("T")


@dataclass(frozen=True)
class Promised:
    """What a job brings along, and isn't stored while it is only checked.

    name: stands for code, environments and components. files: what lies at addresses; None where that is told already.
    components: by the names that stand for them.
    """

    name: str = ""
    files: Mapping[str, Path | None] = field(default_factory=dict)
    components: Mapping[str, Component] = field(default_factory=dict)

    def without(self, source: Source) -> Source:
        """Return a source without what is promised."""
        code, environment = (None if named == self.name else named for named in (source.code, source.environment))
        return Source(code, environment)


NOTHING = Promised()


def registry_pipeline(asked: JobRequest) -> str | None:
    """Return the pipeline of the registry that a job of one node runs, or None for another job."""
    nodes = list(asked.pipeline.nodes.values())
    if asked.commands or len(nodes) > 1:
        return None
    reference = parse_reference(nodes[0].component if nodes else asked.component)
    if not isinstance(reference, AssetReference) or not reference.registry or reference.name not in shipped_names():
        return None
    return reference.name if shipped(reference.name).component.kind == "pipeline" else None


def only_node(asked: JobRequest) -> Node:
    """Return the node of a job of one, or for a job that is a component, the node that it would be."""
    if asked.pipeline.nodes:
        (node,) = asked.pipeline.nodes.values()
        return node
    inputs = {name: f"${{{{parent.inputs.{name}}}}}" for name in asked.inputs}
    outputs = {name: f"${{{{parent.outputs.{name}}}}}" for name in asked.pipeline.outputs}
    return Node("pipeline", asked.component, inputs, outputs)


def bound_inputs(node: Node, given: Mapping[str, str | PathInput]) -> dict[str, str | PathInput]:
    """Return a node's inputs, with what the job was given in the place of what is bound to that.

    Raises `InvalidParameter` for what is bound to anything else.
    """
    found: dict[str, str | PathInput] = {}
    for name, value in node.inputs.items():
        match = PARENT_INPUT.fullmatch(value.strip()) if isinstance(value, str) else None
        if match and match[1] in given:
            found[name] = given[match[1]]
        elif isinstance(value, str):
            found[name], fault = filled(value, given)
            if fault:
                raise InvalidParameter(f"{name} {fault}")
        else:
            found[name] = value if isinstance(value, PathInput) else str(value)
    return found


def submission(services: Services, name: str, asked: JobRequest, promised: Promised = NOTHING) -> Draft:
    """Look up what a job names, and plan it. Raises `InvalidParameter` with all faults, before anything is stored."""
    work = _Submission(services, asked, promised)
    found = attempt(work.flat, work.faults)
    job_inputs = {key: work.given(key, value) for key, value in asked.inputs.items()}
    if not found:
        raise InvalidParameter("The job can't be planned.", work.faults + Computes(services).faults(asked.computes))
    (flat,) = found
    pipeline = dataclasses.replace(flat.pipeline, nodes=work.settled(flat, job_inputs))
    request = PlanRequest(
        name=name,
        component=pipeline,
        inputs=job_inputs,
        experiment=asked.experiment,
        display_name=asked.display_name,
        force_rerun=asked.force_rerun,
        continue_on_step_failure=asked.continue_on_step_failure,
        tags=asked.tags,
        properties=asked.properties,
        created_by=services.user,
    )
    facts = Facts(flat.pinned, Computes(services).hardware(), datetime.now(UTC))
    if asked.sweep is not None:
        request = _swept(request, asked.sweep, facts)
    computes = {**asked.computes, **work.computes({**asked.pipeline.nodes, **flat.pipeline.nodes}.values())}
    return drafted(request, facts, work.faults + Computes(services).faults(computes))


def _swept(request: PlanRequest, sweep: Sweep, facts: Facts) -> PlanRequest:
    """Return a request for the trials of a sweep, which share the machine's cores. Without a seed it gets one."""
    sweep = sweep if sweep.seed is not None else dataclasses.replace(sweep, seed=secrets.randbelow(2**31))
    (node,) = request.component.nodes.values()
    cpus = max(1, facts.hardware.cpus // sweep.max_parallel)
    resources = dataclasses.replace(facts.pinned[node.component].component.resources, cpus=cpus)
    return dataclasses.replace(request, component=with_trials(request.component, draw(sweep), resources), sweep=sweep)


class _Submission:
    """Looks things up; a fault is kept, and the work goes on, so that all are told at once."""

    def __init__(self, services: Services, asked: JobRequest, promised: Promised) -> None:
        self._services = services
        self._asked = asked
        self._promised = promised
        self.faults: list[str] = []

    def flat(self) -> Flat:
        """Return the job's pipeline as one of commands, each with the output that collects `./outputs`."""
        flat = flatten(self._whole(), self._pin)
        return Flat(with_destinations(flat.pipeline, self._asked.destinations), flat.pinned)

    def _whole(self) -> Component:
        """Return the job's pipeline; of one that is a component, with that one's nodes, inputs and outputs."""
        asked = self._asked.pipeline
        if not self._asked.component:
            return asked
        component = self._pin(self._asked.component).component
        if component.kind != "pipeline":
            raise InvalidParameter(
                f"The job is component {component.name}, a command. Submit it as a command, or as a node."
            )
        return dataclasses.replace(
            asked,
            nodes=asked.nodes or component.nodes,
            inputs={**asked.inputs, **component.inputs},
            outputs={**component.outputs, **asked.outputs},
        )

    def given(self, name: str, value: str | PathInput) -> Any:
        """Return an input of the job: its text, or what it names in the store."""
        if isinstance(value, str):
            return value
        return self._found(lambda: self._stored(name, value))

    def settled(self, flat: Flat, job_inputs: Mapping[str, Any]) -> dict[str, Node]:
        """Return the nodes with every path that they name themselves looked up."""
        nodes = {}
        for name, node in flat.pipeline.nodes.items():
            declared = flat.pinned[node.component].component.inputs
            inputs = dict(node.inputs)
            for key, value in node.inputs.items():
                path = _path(value, key in declared and declared[key].is_path, job_inputs)
                if path is not None:
                    inputs[key] = self._found(partial(self._stored, f"step '{name}': {key}", path))
            nodes[name] = dataclasses.replace(node, inputs=inputs)
        return nodes

    def computes(self, nodes: Iterable[Node]) -> dict[str, str]:
        """Return which compute each node names by an input of the job, by who names it."""
        found: dict[str, str] = {}
        for node in nodes:
            name, fault = filled(node.bound.get(COMPUTE, ""), self._asked.inputs)
            self.faults += [f"step '{node.name}': {COMPUTE} {fault}"] if fault else []
            found |= {f"compute of '{node.name}'": compute_name(name)} if name else {}
        return found

    def _pin(self, key: str) -> PinnedComponent:
        components = Components(self._services)
        if key in self._promised.components:
            pinned = components.pinned(self._promised.components[key], Source())
        elif key in self._asked.commands:
            pinned = self._pin_own(key, *self._asked.commands[key])
        else:
            pinned = components.pin(key)
        if pinned.component.kind == "pipeline" or pinned.is_trusted or DEFAULT_OUTPUT in pinned.component.outputs:
            return pinned
        outputs = {**pinned.component.outputs, DEFAULT_OUTPUT: Output(DEFAULT_OUTPUT, "uri_folder")}
        return dataclasses.replace(pinned, component=dataclasses.replace(pinned.component, outputs=outputs))

    def _pin_own(self, step: str, command: Component, named: Source) -> PinnedComponent:
        """Return a command of the job's own; where what it names isn't there, keep the fault and leave that out."""
        source = self._promised.without(named)
        try:
            Components(self._services).require_source(source)
        except UsageError as error:
            self.faults += [f"step '{step}': {fault}" for fault in error.faults]
            source = Source()
        return Components(self._services).pinned(command, source)

    def _stored(self, where: str, path: PathInput) -> ArtifactInput | Upload:
        return ArtifactInput("") if path.text in self._promised.files else stored(self._services, where, path)

    def _found(self, work: Callable[[], T]) -> T | ArtifactInput:
        """Return `work()`; where it raises, keep the fault and return a promise that the plan takes as it is."""
        found = attempt(work, self.faults)
        return found[0] if found else ArtifactInput("")


def _path(value: Any, is_path: bool, job_inputs: Mapping[str, Any]) -> PathInput | None:
    """Return the path that a node's input names: itself, or by a text of the job that stands for a path."""
    if isinstance(value, PathInput):
        return value
    if not is_path or not isinstance(value, str):
        return None
    if match := PARENT_INPUT.fullmatch(value.strip()):
        text = job_inputs.get(match[1])
        return path_input(text) if isinstance(text, str) else None
    text, fault = filled(value, job_inputs)
    return None if fault else path_input(text)


def with_destinations(pipeline: Component, destinations: Mapping[str, Destination]) -> Component:
    """Return a pipeline whose steps know what else becomes of the job's outputs that they write."""
    nodes = {}
    for name, node in pipeline.nodes.items():
        own = {
            output: destinations[match[1]]
            for output, written in node.outputs.items()
            if (match := PARENT_OUTPUT.fullmatch(written.strip())) and match[1] in destinations
        }
        nodes[name] = dataclasses.replace(node, destinations={**node.destinations, **own})
    return dataclasses.replace(pipeline, nodes=nodes)
