"""From a model back to its job, steps, code, parameters, base and data, each link checked by hash."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mafunzo.control.workspace.closest_rows import CloseRows, closest_rows, training_data
from mafunzo.control.workspace.model_source import ModelSources
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.shipped_component import shipped, shipped_names
from mafunzo.entities.asset import Asset
from mafunzo.entities.job import ArtifactInput, Job, Step
from mafunzo.entities.pruning import PruneKind, pruned_at
from mafunzo.entities.sweep import BEST_TRIAL
from mafunzo.errors import ArtifactCorrupt, NotFound


@dataclass(frozen=True)
class Link:
    """One thing on the way: what it is, its facts, the hash of its bytes, and the faults that checking them found.

    `is_current`: for a step, whether the code of today is the code that ran; None for other links. `is_pruned`: its bytes went
    when the job's files were pruned, so that there is nothing to check.
    """

    kind: str
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    artifact: str | None = None
    faults: tuple[str, ...] = ()
    is_current: bool | None = None
    depth: int = 0
    is_pruned: bool = False


@dataclass(frozen=True)
class Lineage:
    """All links of a thing, itself first.

    data: the hashes of what its model was trained on, by the job's input. text: what an answer says, where its deployment was
    asked to keep that. closest: the training rows closest to a text, where there is one.
    """

    links: tuple[Link, ...]
    data: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    closest: CloseRows | None = None

    @property
    def faults(self) -> list[str]:
        return [f"{link.kind} {link.name}: {fault}" for link in self.links for fault in link.faults]

    def lines(self) -> Iterator[str]:
        """Yield readable lines, indented by depth."""
        for link in self.links:
            mark = "" if link.artifact is None else (" [CORRUPT]" if link.faults else " [verified]")
            mark = " [pruned]" if link.is_pruned else mark
            digest = f" {link.artifact[:19]}..." if link.artifact else ""
            code = {True: "", False: " (the code has changed since)", None: ""}[link.is_current]
            yield f"{'  ' * link.depth}{link.kind} {link.name}{digest}{mark}{code}"
            for name, value in link.facts.items():
                if value not in (None, "", {}, []):
                    yield f"{'  ' * (link.depth + 2)}{name}: {_short(value)}"
        if self.closest is not None:
            yield from self.closest.lines()

    def require_intact(self) -> None:
        """Raise `ArtifactCorrupt` naming every file whose bytes have changed."""
        if self.faults:
            raise ArtifactCorrupt("The lineage is broken: stored bytes have changed.", self.faults)


def trace(services: Services, thing: str) -> Lineage:
    """Trace a model (`name`, `name:version`) or a job; raises `NotFound`."""
    job = services.records.jobs.find_named(thing)
    if job is not None:
        return Lineage(tuple(job_links(services, job, 0)), training_data(job, None))
    asset = ModelSources(services).get(thing)
    return Lineage(tuple(model_links(services, asset)), data_of_model(services, asset))


def data_of_model(services: Services, asset: Asset) -> dict[str, str]:
    """Return the hashes of what a model was trained on, by the input of the job that made it."""
    job_name = asset.properties.get("job")
    job = services.records.jobs.find_named(job_name) if job_name else None
    return training_data(job, asset)


def with_closest_rows(services: Services, lineage: Lineage, text: str | None, most: int) -> Lineage:
    """Return a lineage with the training rows closest to `text`, by default to what the answer says, if that was kept.

    Raises `InvalidParameter` for a text without words, and for a number of rows that can't be.
    """
    text = lineage.text or None if text is None else text
    if text is None:
        return lineage
    return replace(lineage, closest=closest_rows(services, lineage.data, text, most))


def facts_of_job(services: Services, job: Job, output: str, producer: Step | None) -> dict[str, Any]:
    """Return what a registered model remembers of the job that made it, or of the one step that did; of a sweep's, of its best
    trial."""
    steps = services.records.steps.of(job.name)
    if producer:
        steps = [step for step in steps if step.name == producer.properties.get(BEST_TRIAL, producer.name)]
    by_name = {step.name: step for step in steps}
    literals = {f"{step.name}.{name}": value for step in steps for name, value in step.spec.literals.items()}
    properties: dict[str, Any] = {
        "job": job.name,
        "job_output": output,
        "parameters": literals,
        "code": {step.spec.component: step.spec.code for step in steps},
        "steps": {step.name: {"cache_key": step.cache_key, "outputs": dict(step.outputs)} for step in steps},
        "data": {name: value.artifact for name, value in _artifact_inputs(job).items() if "file_path" in name},
    }
    importer = by_name.get("import_model")
    if importer and (base := importer.outputs.get("model")) and services.artifacts.exists(base):  # else it was pruned
        properties["base_artifact"] = base
        properties["base_model"] = _base_facts(services, base, job)
    prepare = by_name.get("prepare_data")
    if prepare and (prepared := prepare.outputs.get("prepared")) and services.artifacts.exists(prepared):
        properties["rows"] = _row_counts(services, prepared)
    return properties


def model_links(services: Services, asset: Asset) -> Iterator[Link]:
    if asset.artifact is None:
        yield Link("catalogue model", str(asset.key), {"licence": asset.tags.get("licence", "")})
        return
    facts = {"created": asset.created_at, "by": asset.created_by, "rows": asset.properties.get("rows")}
    yield Link("model", str(asset.key), facts, asset.artifact, tuple(services.artifacts.verify(asset.artifact)))
    job_name = asset.properties.get("job")
    if not job_name:
        return
    try:
        job = services.records.jobs.get(job_name)
    except NotFound:
        yield Link("job", f"{job_name} (deleted)", depth=1)
        return
    yield from job_links(services, job, 1, asset.properties.get("steps"))


def job_links(services: Services, job: Job, depth: int, step_names: Collection[str] | None = None) -> Iterator[Link]:
    """Yield the links of a job; `step_names` names the steps that count, None is all."""
    yield Link(
        "job", job.name, {"status": str(job.status), "by": job.created_by, "created": job.created_at}, depth=depth
    )
    for name, artifact_input in _artifact_inputs(job).items():
        yield _stored(services, job, "input", f"{name} = {artifact_input.name}", artifact_input.artifact, depth + 1)
    steps = services.records.steps.of(job.name)
    for step in (one for one in steps if step_names is None or one.name in step_names):
        yield _step_link(step, depth + 1)
        for name, artifact in step.outputs.items():
            yield _stored(services, job, "output", f"{step.name}.{name}", artifact, depth + 2)


def _stored(services: Services, job: Job, kind: str, name: str, artifact: str, depth: int) -> Link:
    """Return the link of bytes that a job names; those that were pruned are no fault."""
    if pruned_at(job, PruneKind.ARTIFACTS) and not services.artifacts.exists(artifact):
        return Link(kind, name, artifact=artifact, depth=depth, is_pruned=True)
    return Link(kind, name, artifact=artifact, faults=tuple(services.artifacts.verify(artifact)), depth=depth)


def _step_link(step: Step, depth: int) -> Link:
    component = step.spec.component.split(":")[0]
    is_current = shipped(component).code == step.spec.code if component in shipped_names() else None
    facts = {"component": step.spec.component, "code": step.spec.code[:19] + "...", "parameters": step.spec.literals}
    return Link("step", f"{step.name} ({step.status})", facts, is_current=is_current, depth=depth)


def _artifact_inputs(job: Job) -> dict[str, ArtifactInput]:
    return {
        name: ArtifactInput(value["artifact"], value.get("name", ""))
        for name, value in job.inputs.items()
        if isinstance(value, Mapping) and "artifact" in value
    }


def _base_facts(services: Services, artifact: str, job: Job) -> dict[str, Any]:
    recorded = json.loads(services.artifacts.open_file(artifact, "mafunzo_model.json").read_text(encoding="utf-8"))
    reference = next((value.name for name, value in _artifact_inputs(job).items() if name.endswith("model_path")), "")
    fields = ("name", "version", "source", "licence", "weights_sha256")
    return {"reference": reference, "artifact": artifact, **{key: recorded.get(key) for key in fields}}


def _row_counts(services: Services, prepared: str) -> dict[str, Any]:
    report = json.loads(services.artifacts.open_file(prepared, "report.json").read_text(encoding="utf-8"))
    return {
        name: {"read": split["rows_read"], "kept": split["rows_kept"], "dropped": len(split["dropped"])}
        for name, split in report["splits"].items()
    }


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ((key, f"({_short(item)})" if isinstance(item, Mapping) else item) for key, item in value.items())
        return ", ".join(f"{key}={item}" for key, item in inner)
    return str(value)
