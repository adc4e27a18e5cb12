"""Submission, from a `JobRequest` to a job: references are resolved, checked and planned; nothing is stored before.

A pipeline that ships and a user's own go it alike. They differ in how the inputs of the job are looked up: those of a pipeline
that ships have meanings which can be checked (`shipped_pipeline`).
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from mafunzo.control.pipelines.binding import filled, inputs_of, upstream_of
from mafunzo.control.pipelines.flatten import Flat, flatten
from mafunzo.control.pipelines.plan import Facts, PinnedComponent, plan
from mafunzo.control.pipelines.sweep import draw, with_trials
from mafunzo.control.store.codec import encode
from mafunzo.control.workspace.components import Components
from mafunzo.control.workspace.computes import Computes
from mafunzo.control.workspace.model_source import Upload
from mafunzo.control.workspace.resolver import resolve
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.shipped_pipeline import inlined, resolved_inputs, shipped_pipeline
from mafunzo.entities.blob import HOME_DATASTORE
from mafunzo.entities.component import (
    COMPUTE,
    PARENT_INPUT,
    PARENT_OUTPUT,
    Component,
    Node,
    Output,
    Source,
)
from mafunzo.entities.compute import ClusterNode
from mafunzo.entities.job import DEFAULT_OUTPUT, NOTES, ArtifactInput, Job, Step
from mafunzo.entities.job_request import JobRequest, OwnCommand
from mafunzo.entities.reference import AssetReference, PathInput, StoredPath, parse_reference, path_input
from mafunzo.entities.sweep import Sweep
from mafunzo.errors import Faults, InvalidParameter, MissingExtra, Unreachable, UsageError

REFUSAL = "The job can't be planned."


@dataclass(frozen=True)
class Promised:
    """What a job uploads with itself, not stored while it is only checked.

    name: stands for code and environments. files: what lies at addresses; None where that is reported already.
    components: by the names that stand for them.
    """

    name: AssetReference | str | None = None
    files: Mapping[str, Path | None] = field(default_factory=dict)
    components: Mapping[AssetReference | str, Component] = field(default_factory=dict)

    def without(self, source: Source) -> Source:
        """Return a source without promised assets."""
        code, environment = (None if asset == self.name else asset for asset in (source.code, source.environment))
        return Source(code, environment)


NOTHING = Promised()


@dataclass(frozen=True)
class Submission:
    """A job that is planned, and so known to be good, before anything of it is stored.

    uploads: by what stands for their artifacts among the inputs of the job and of its steps.
    """

    request: JobRequest
    job: Job
    steps: list[Step]
    uploads: Mapping[str, Upload]

    def planned(self) -> tuple[Job, list[Step]]:
        """Return the job and its steps, with no bytes behind its files."""
        return self._with_artifacts(dict.fromkeys(self.uploads, ""))

    def stored(self) -> tuple[Job, list[Step]]:
        """Store the files; return the job and its steps."""
        return self._with_artifacts({key: upload.put() for key, upload in self.uploads.items()})

    def _with_artifacts(self, artifacts: Mapping[str, str]) -> tuple[Job, list[Step]]:
        job_inputs = {
            name: {**value, "artifact": artifacts.get(value["artifact"], value["artifact"])}
            if isinstance(value, dict)
            else value
            for name, value in self.job.inputs.items()
        }
        job = dataclasses.replace(self.job, inputs=job_inputs, settings=encode(self.request.settings))
        return job, [_with_step_artifacts(step, artifacts) for step in self.steps]


def submission(
    services: Services, request: JobRequest, promised: Promised = NOTHING, faults: Faults | None = None
) -> Submission:
    """Resolve a job's references, check and plan it. faults: what is known to be wrong with the request already.

    Raises `InvalidParameter` with all faults, before anything is stored.
    """
    faults = faults or Faults()
    work = _Lookup(services, request, promised, faults)
    flat, inputs = work.flat(), work.inputs()
    named = work.computes(inputs, flat)
    faults.add(*Computes(services).faults(named))
    clusters = _clusters(services, set(named.values()), faults)
    if flat is None:
        raise InvalidParameter(REFUSAL, tuple(faults))
    pipeline = dataclasses.replace(flat.pipeline, nodes=work.settled(flat, inputs))
    facts = Facts(flat.pinned, Computes(services).hardware(), datetime.now(UTC), services.user, clusters)
    resolved, uploads = _promised_files(dataclasses.replace(work.request, pipeline=pipeline, inputs=inputs))
    if request.sweep is not None:
        resolved = _swept(resolved, request.sweep, facts)
        faults.attempt(lambda: plan(_first_trial(resolved), facts), None)
        faults.require_none(REFUSAL)
    planned = faults.attempt(lambda: plan(resolved, facts), None)
    if planned is None or faults:
        raise InvalidParameter(REFUSAL, tuple(faults))
    job, steps = planned
    work.notes += _shortages(steps, clusters)
    if work.notes:
        job = dataclasses.replace(job, properties={**job.properties, NOTES: work.notes})
    return Submission(request, job, steps, uploads)


def _clusters(services: Services, names: set[str], faults: Faults) -> dict[str, list[ClusterNode]]:
    """Return the nodes of the Ray clusters among some computes; one that can't be reached is a fault, and has none."""
    computes = Computes(services)
    clusters = {}
    for compute in computes.list():
        if compute.name in names and compute.is_ray:
            try:
                clusters[compute.name] = computes.nodes(compute)
            except (Unreachable, MissingExtra) as error:
                faults.add(error.message)
    return clusters


def _shortages(steps: Sequence[Step], clusters: Mapping[str, Sequence[ClusterNode]]) -> list[str]:
    """Return what clusters lack of what steps ask for, in sentences."""
    placements = [step.spec.placement for step in steps if step.spec.placement is not None]
    shortages = dict.fromkeys(place.shortage(clusters[place.compute]) for place in placements)
    return [f"{text}: they keep the effective batch by gradient accumulation." for text in shortages if text]


def _first_trial(swept: JobRequest) -> JobRequest:
    """Return a request for the first trial of a sweep: what is wrong with one is wrong with each."""
    nodes = dict(list(swept.pipeline.nodes.items())[:1])
    return dataclasses.replace(swept, pipeline=dataclasses.replace(swept.pipeline, nodes=nodes))


def _swept(request: JobRequest, sweep: Sweep, facts: Facts) -> JobRequest:
    """Return a request for the trials of a sweep, which share the machine's cores. Without a seed it gets one."""
    sweep = sweep if sweep.seed is not None else dataclasses.replace(sweep, seed=secrets.randbelow(2**31))
    (node,) = request.pipeline.nodes.values()
    cpus = max(1, facts.hardware.cpus // sweep.max_parallel)
    resources = dataclasses.replace(facts.pinned[node.component].component.resources, cpus=cpus)
    return dataclasses.replace(request, pipeline=with_trials(request.pipeline, draw(sweep), resources), sweep=sweep)


class _Lookup:
    """Resolves references; faults are collected, so that all are reported at once.

    request: with the nodes of the pipeline that ships in it, if it is one.
    """

    def __init__(self, services: Services, request: JobRequest, promised: Promised, faults: Faults) -> None:
        self._services = services
        self._promised = promised
        self._faults = faults
        self._requested = request
        self.notes: list[str] = []
        shipped = shipped_pipeline(request)
        self._is_shipped = shipped is not None
        self.request = request if shipped is None else inlined(request, shipped, faults)

    def flat(self) -> Flat | None:
        """Return the job's pipeline as one of commands, each with the output that collects `./outputs`; None with a fault."""
        flat = self._faults.attempt(lambda: flatten(self._whole(), self._pin), None)
        if flat is None:
            return None
        pipeline = _with_destinations(flat.pipeline, self.request)
        self.request, pipeline = _with_written_paths(self.request, pipeline)
        return Flat(pipeline, flat.pinned)

    def _whole(self) -> Component:
        """Return the job's pipeline; of one that is a component, with that one's nodes, inputs and outputs."""
        pipeline = self.request.pipeline
        if self.request.component is None:
            return pipeline
        component = self._pin(self.request.component).component
        if component.kind != "pipeline":
            raise InvalidParameter(
                f"The job is component {component.name}, a command. Submit it as a command, or as a node."
            )
        return dataclasses.replace(
            pipeline,
            nodes=pipeline.nodes or component.nodes,
            inputs={**pipeline.inputs, **component.inputs},
            outputs={**component.outputs, **pipeline.outputs},
        )

    def inputs(self) -> dict[str, Any]:
        """Return the inputs of the job: values, or what they name in the store."""
        request = self.request
        if self._is_shipped:
            has_defaults, files = request.has_model_defaults, self._promised.files
            return resolved_inputs(
                self._services, request.pipeline, request.inputs, self._faults, has_defaults, files, self.notes
            )
        return {
            name: self._attempt(partial(self._stored, name, value)) if isinstance(value, PathInput) else value
            for name, value in request.inputs.items()
        }

    def settled(self, flat: Flat, job_inputs: Mapping[str, Any]) -> dict[str, Node]:
        """Return the nodes with every path that they name themselves looked up."""
        nodes = {}
        for name, node in flat.pipeline.nodes.items():
            declared = flat.pinned[node.component].component.inputs
            inputs: dict[str, Any] = dict(node.inputs)
            for key, value in node.inputs.items():
                path = _path(value, key in declared and declared[key].is_path, job_inputs)
                if path is not None:
                    inputs[key] = self._attempt(partial(self._stored, f"step '{name}': {key}", path))
            nodes[name] = dataclasses.replace(node, inputs=inputs)
        return nodes

    def computes(self, inputs: Mapping[str, Any], flat: Flat | None) -> dict[str, str]:
        """Return which computes the job and its nodes name, by who names them."""
        computes = dict(self.request.computes)
        if flat is None:
            return computes
        defaults = {name: declared.default for name, declared in flat.pipeline.inputs.items()}
        values = {**defaults, **self._requested.inputs, **inputs}
        for node in {**self._requested.pipeline.nodes, **flat.pipeline.nodes}.values():
            written = node.bound.get(COMPUTE, "")
            text, fault = filled(written, values)
            self._faults.add(f"step '{node.name}': {COMPUTE} {fault}" if fault else "")
            if text:
                reference = parse_reference(text.strip())
                name = reference.name if isinstance(reference, AssetReference) else text
                match = PARENT_INPUT.fullmatch(written.strip())
                computes[match[1] if match and self._is_shipped else f"compute of '{node.name}'"] = name
        return computes

    def _pin(self, key: AssetReference | str) -> PinnedComponent:
        components = Components(self._services)
        if key in self._promised.components:
            pinned = components.pinned(self._promised.components[key], Source())
        elif isinstance(key, str) and key in self.request.commands:
            pinned = self._pin_own(key, self.request.commands[key])
        else:
            pinned = components.pin(key)
        if pinned.component.kind == "pipeline" or pinned.is_trusted or DEFAULT_OUTPUT in pinned.component.outputs:
            return pinned
        outputs = {**pinned.component.outputs, DEFAULT_OUTPUT: Output(DEFAULT_OUTPUT, "uri_folder")}
        return dataclasses.replace(pinned, component=dataclasses.replace(pinned.component, outputs=outputs))

    def _pin_own(self, step: str, command: OwnCommand) -> PinnedComponent:
        """Return a command of the job's own; where what it names isn't there, keep the fault and leave that out."""
        source = self._promised.without(command.source)
        try:
            Components(self._services).require_source(source)
        except UsageError as error:
            self._faults.add(*(f"step '{step}': {fault}" for fault in error.faults))
            source = Source()
        return Components(self._services).pinned(command.component, source)

    def _stored(self, where: str, path: PathInput) -> ArtifactInput | Upload:
        return ArtifactInput("") if path.text in self._promised.files else resolve(self._services, where, path)

    def _attempt(self, work: Callable[[], ArtifactInput | Upload]) -> ArtifactInput | Upload:
        """Return `work()`; where it raises, keep the fault and return a promise that the plan takes as it is."""
        return self._faults.attempt(work, ArtifactInput(""))


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


def _with_destinations(pipeline: Component, request: JobRequest) -> Component:
    """Return a pipeline whose steps know what else becomes of their outputs, and of the job's that they write.

    The path of a step's own output has the step's name, as that of a job of its own; the trials of a sweep are one job.
    """
    nodes = {}
    for name, node in pipeline.nodes.items():
        job = request.name if request.sweep else f"{request.name}.{name}"
        destinations = {output: place.named(job, output) for output, place in node.destinations.items()}
        for output, written in node.outputs.items():
            match = PARENT_OUTPUT.fullmatch(written.strip())
            if match and match[1] in request.destinations:
                destinations[output] = request.destinations[match[1]].named(request.name, match[1])
        nodes[name] = dataclasses.replace(node, destinations=destinations)
    return dataclasses.replace(pipeline, nodes=nodes)


def _with_written_paths(request: JobRequest, pipeline: Component) -> tuple[JobRequest, Component]:
    """Return a job whose steps take a path of the datastore that an earlier one writes from that step.

    A step that writes to a path that it, or what it waits for, reads is no source of it: there the path has what is stored.
    """
    written: dict[str, tuple[str, str]] = {}
    taken: set[str] = set()
    nodes = {}
    for name, node in pipeline.nodes.items():
        inputs: dict[str, Any] = dict(node.inputs)
        for key, value in node.inputs.items():
            match = PARENT_INPUT.fullmatch(value.strip()) if isinstance(value, str) else None
            source = written.get(_stored_at(request.inputs.get(match[1]) if match else value))
            if source is not None and name not in _upstream(source[0], pipeline.nodes):
                inputs[key] = f"${{{{parent.jobs.{source[0]}.outputs.{source[1]}}}}}"
                taken |= {match[1]} if match else set()
        nodes[name] = dataclasses.replace(node, inputs=inputs)
        written |= {place.path: (name, output) for output, place in node.destinations.items() if place.path}
    used = {match for node in nodes.values() for value in node.inputs.values() for match in _inputs_of(value)}
    unused = taken - used  # of the job's inputs, those that are no longer looked up at the beginning
    request = dataclasses.replace(
        request, inputs={name: value for name, value in request.inputs.items() if name not in unused}
    )
    declared = {name: one for name, one in pipeline.inputs.items() if name not in unused}
    return request, dataclasses.replace(pipeline, nodes=nodes, inputs=declared)


def _stored_at(value: Any) -> str:
    """Return the path of the home's datastore that an input names; an empty text for another."""
    reference = value.reference if isinstance(value, PathInput) else None
    return reference.path if isinstance(reference, StoredPath) and reference.datastore == HOME_DATASTORE else ""


def _inputs_of(value: Any) -> set[str]:
    return inputs_of(value) if isinstance(value, str) else set()


def _upstream(name: str, nodes: Mapping[str, Node]) -> set[str]:
    """Return the steps that one waits for, and those that they wait for."""
    steps, ahead = set[str](), [name]
    while ahead:
        fresh = (upstream_of(nodes[ahead.pop()]) & set(nodes)) - steps
        steps |= fresh
        ahead += fresh
    return steps


def _promised_files(request: JobRequest) -> tuple[JobRequest, dict[str, Upload]]:
    """Return a request with a promise in the place of each upload, of the job's inputs and of its nodes' own, and those."""
    uploads: dict[str, Upload] = {}

    def promise(value: Any) -> Any:
        if not isinstance(value, Upload):
            return value
        key = f"upload {len(uploads)}"
        uploads[key] = value
        return ArtifactInput(key, value.name)

    def placed(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: promise(value) for name, value in inputs.items()}

    nodes = {
        name: dataclasses.replace(node, inputs=placed(node.inputs)) for name, node in request.pipeline.nodes.items()
    }
    pipeline = dataclasses.replace(request.pipeline, nodes=nodes)
    return dataclasses.replace(request, inputs=placed(request.inputs), pipeline=pipeline), uploads


def _with_step_artifacts(step: Step, artifacts: Mapping[str, str]) -> Step:
    inputs = {
        name: dataclasses.replace(value, artifact=artifacts.get(value.artifact, value.artifact))
        if isinstance(value, ArtifactInput)
        else value
        for name, value in step.spec.inputs.items()
    }
    return dataclasses.replace(step, spec=dataclasses.replace(step.spec, inputs=inputs))
