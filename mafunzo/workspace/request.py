"""From what a user says to the inputs of a pipeline: spellings, options, files, the base model, and all faults at once.

Nothing is stored here: a file or folder becomes an `Upload`, whose bytes are stored once the whole job is known to be good.
"""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entities.component import Component, Input, parse_value, unknown_name
from mafunzo.entities.evaluation import evaluation_config, unmeasured
from mafunzo.entities.job import ArtifactInput, Job, Step
from mafunzo.entities.parameters.constraint import faults_between
from mafunzo.entities.reference import AssetReference, PathInput
from mafunzo.errors import InvalidFile, InvalidParameter, UsageError
from mafunzo.pipelines.plan import Facts, PinnedComponent, PlanRequest, plan
from mafunzo.workspace.component import shipped
from mafunzo.workspace.compute import Computes
from mafunzo.workspace.model_source import ModelSource, ModelSources, Upload
from mafunzo.workspace.reference import stored
from mafunzo.workspace.row_check import require_good
from mafunzo.workspace.services import Services

T = TypeVar("T")
OPTIONS: Mapping[str, Input] = {
    option.name: option
    for option in (
        Input("job_name", "string"),
        Input("display_name", "string"),
        Input("experiment", "string"),
        Input("priority", "integer"),
        Input("force_rerun", "boolean"),
        Input("continue_on_step_failure", "boolean"),
    )
}
MODEL_INPUTS = ("pytorch_model_path", "mlflow_model_path", "huggingface_id")
"""The inputs that name a base model; the first that is given wins, and its card's defaults count."""


@dataclass
class Request:
    """A job as it is being asked for; each verb adds inputs, and faults instead of raising."""

    services: Services
    component: Component
    inputs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def take(self, given: Mapping[str, Any]) -> None:
        """Take in parameters and options by any of their names; what isn't given is None."""
        names = {alias: declared.name for declared in self.component.inputs.values() for alias in declared.aliases}
        for name, value in given.items():
            known = name if name in self.component.inputs else names.get(name)
            if value is None:
                continue
            if name in OPTIONS:
                parsed, fault = parse_value(OPTIONS[name], value)
                self.options[name] = parsed
                self.faults += [fault] if fault else []
            elif name == "tags":
                self.tags = self._tags(value)
            elif known is None:
                self.faults.append(unknown_name(name, [*self.component.inputs, *names, *OPTIONS, "tags"]))
            elif known in self.inputs:
                self.faults.append(f"{name} and another name of {known} are both given. Keep one.")
            else:
                self.inputs[known] = value

    def take_stored(self, given: Mapping[str, str | PathInput], local: Mapping[str, Path | None]) -> None:
        """Take in inputs that came over a wire: literals as text, and what addresses name, of which a model stays a name.

        local: what lies at addresses that aren't stored yet.
        """
        texts = {name: value if isinstance(value, str) else _model_name(value) for name, value in given.items()}
        self.take({name: text for name, text in texts.items() if text})
        for name, value in given.items():
            if isinstance(value, str) or texts[name]:
                continue
            if name not in self.component.inputs:
                self.faults.append(unknown_name(name, self.component.inputs))
            elif path := local.get(value.text):
                self.inputs[name] = path
            else:
                for found in self.attempt(partial(stored, self.services, name, value)):
                    self.inputs[name] = found

    def base(self, model: str | Path | Asset | None, has_defaults: bool = True) -> str:
        """Take in the base model, by `model` or by the pipeline's own inputs; return its name for people.

        has_defaults: whether its card's defaults stand in for what isn't given; its ranges hold in any case.
        """
        named = [name for name in MODEL_INPUTS if name in self.inputs]
        if model is not None and named:
            self.faults.append(f"model and {named[0]} both name the base model. Keep one.")
        if model is None and not named:
            self.faults.append(
                "model is missing: name a model of `mafunzo model list`, org/name of a hub, or a folder."
            )
        wanted = model if model is not None else next((self.inputs.pop(name) for name in named[:1]), None)
        for name in named:
            self.inputs.pop(name, None)
        if isinstance(wanted, ArtifactInput):  # uploaded already
            self.inputs[named[0]] = wanted
            return wanted.name
        if wanted is None:
            return "model"
        for source in self.attempt(lambda: ModelSources(self.services).source(wanted)):
            self.inputs = {**(source.defaults if has_defaults else {}), **self.inputs, **source.inputs}
            self._check_ranges(source)
        return wanted.name if isinstance(wanted, Asset) else Path(str(wanted).removeprefix("azureml:")).name

    def files(self, given: Mapping[str, str | Path | None]) -> None:
        """Take in files under the names of inputs, beside those that stand among the parameters already."""
        for name, path in given.items():
            if path is not None and name in self.inputs:
                self.faults.append(f"{name} is given twice. Keep one.")
            elif path is not None:
                self.inputs[name] = path

    def uploads(self) -> None:
        """Turn every path among the inputs into an upload."""
        for name, value in self.inputs.items():
            if self.component.inputs[name].is_path and isinstance(value, str | Path):
                found = self.attempt(partial(_upload, self.services, name, Path(value)))
                self.inputs[name] = found[0] if found else ArtifactInput("")  # told: the plan need not tell it again

    def rows(self, names: Iterable[str]) -> list[Path]:
        """Check every row of the data files under these inputs; return their paths."""
        given = {name: self.inputs[name] for name in names if name in self.inputs}
        paths = [Path(value).expanduser() for value in given.values() if isinstance(value, str | Path)]
        policy = str(self.inputs.get("on_bad_row", "fail"))
        # In the home, where a checkout is a hard link.
        with tempfile.TemporaryDirectory(prefix=".rows-", dir=self.services.home.root) as scratch:
            stored = [
                self.services.artifacts.checkout(value.artifact, Path(scratch) / name)
                for name, value in given.items()
                if isinstance(value, ArtifactInput)
            ]
            found = [*(path for path in paths if path.exists()), *stored]
            self.attempt(lambda: require_good(found, policy))
        return paths

    def check_finetuning(self) -> None:
        """Find the faults between parameters that are each in their range."""
        values = self._values()
        self.faults += faults_between(values)
        self.check_evaluation()

    def check_evaluation(self) -> None:
        """Find the faults of what is to be measured."""
        values = self._values()
        texts: dict[str, str] = {}
        file = self.inputs.get("evaluation_config")
        if isinstance(file, str | Path) and Path(file).expanduser().is_file():
            texts[f"evaluation_config ({file})"] = Path(file).expanduser().read_text(encoding="utf-8")
        if values.get("evaluation_config_params"):
            texts["evaluation_config_params"] = str(values["evaluation_config_params"])
        for config in self.attempt(lambda: evaluation_config(texts)):
            given = (values[name] for name in ("generation_rows", "gate", "gate_metric"))
            self.faults += unmeasured(config, *given)

    def attempt(self, work: Callable[[], T]) -> list[T]:
        """Return `[work()]`, or nothing when it raised a usage error, whose text then stands among the faults."""
        return attempt(work, self.faults)

    def draft(self, prefix: str) -> Draft:
        """Plan the job; raises `InvalidParameter` with all faults that were found, the plan's own too."""
        pinned = {node.component: _pin(node.component) for node in self.component.nodes.values()}
        facts = Facts(pinned=pinned, hardware=Computes(self.services).hardware(), now=datetime.now(UTC))
        request = PlanRequest(
            name=self.options.get("job_name") or f"{prefix}-{secrets.token_hex(4)}",
            component=self.component,
            inputs=self.inputs,
            experiment=self.options.get("experiment") or self.component.name,
            display_name=self.options.get("display_name") or self.component.name,
            priority=self.options.get("priority") or 0,
            force_rerun=self.options.get("force_rerun") or False,
            continue_on_step_failure=self.options.get("continue_on_step_failure") or False,
            tags=self.tags,
            properties=self.properties,
            created_by=self.services.user,
        )
        named = {name: str(value) for name, value in self.inputs.items() if name.startswith("compute_")}
        self.faults += Computes(self.services).faults(named)
        return drafted(request, facts, self.faults)

    def _values(self) -> dict[str, Any]:
        """Return every literal input as its type; a broken one, which the plan tells of, has its default."""
        values: dict[str, Any] = {}
        for name, declared in self.component.inputs.items():
            given = self.inputs.get(name)
            parsed = None if declared.is_path or given is None else parse_value(declared, given)[0]
            values[name] = declared.default if parsed is None else parsed
        return values

    def _check_ranges(self, source: ModelSource) -> None:
        values = self._values()
        for name, (low, high) in source.ranges.items():
            value = values.get(name)
            if isinstance(value, int | float) and not low <= value <= high:
                self.faults.append(f"{name} is {value}, expected {low:g} to {high:g} for {source.name}.")

    def _tags(self, given: Any) -> dict[str, str]:
        if isinstance(given, Mapping):
            return {str(name): str(value) for name, value in given.items()}
        pairs = [pair.partition("=") for pair in str(given).split(",")]
        self.faults += (
            [f"tags is '{given}', expected name=value pairs with commas between."]
            if not all(name and equals for name, equals, _ in pairs)
            else []
        )
        return {name.strip(): value.strip() for name, _, value in pairs}


def with_outputs(pipeline: Component, names: Mapping[str, str]) -> Component:
    """Return a pipeline that gives some of its outputs, each under another name: `names` maps its own to those."""
    given = {theirs: pipeline.outputs[ours] for ours, theirs in names.items() if ours in pipeline.outputs}
    renamed = {f"${{{{parent.outputs.{ours}}}}}": f"${{{{parent.outputs.{theirs}}}}}" for ours, theirs in names.items()}
    nodes = {
        name: dataclasses.replace(
            node, outputs={output: renamed[target] for output, target in node.outputs.items() if target in renamed}
        )
        for name, node in pipeline.nodes.items()
    }
    return dataclasses.replace(pipeline, outputs=given, nodes=nodes)


def attempt(work: Callable[[], T], faults: list[str]) -> list[T]:
    """Return `[work()]`, or nothing when it raised a usage error, whose text is then added to `faults`."""
    try:
        return [work()]
    except UsageError as error:
        faults += [error.message, *error.faults] if error.faults else [error.message]
        return []


@dataclass(frozen=True)
class Draft:
    """A job that is known to be good, before anything of it is stored."""

    request: PlanRequest
    facts: Facts

    def planned(self) -> tuple[Job, list[Step]]:
        """Return the job and its steps, with no bytes behind its files."""
        return plan(_with_files(self.request, lambda upload: ArtifactInput("", upload.name)), self.facts)

    def stored(self) -> tuple[Job, list[Step]]:
        """Store the files; return the job and its steps."""
        return plan(_with_files(self.request, Upload.artifact), self.facts)


def drafted(request: PlanRequest, facts: Facts, faults: list[str]) -> Draft:
    """Return a job once it can be planned; files among its inputs, and among its nodes' own, are uploads.

    Raises `InvalidParameter` with these faults and the plan's own. Of a sweep the first trial is planned: what is wrong with
    one is wrong with each.
    """
    nodes = list(request.component.nodes.items())
    component = dataclasses.replace(request.component, nodes=dict(nodes if request.sweep is None else nodes[:1]))
    try:
        Draft(dataclasses.replace(request, component=component), facts).planned()
    except InvalidParameter as error:
        faults = [*faults, *error.faults]
    if faults:
        raise InvalidParameter("The job can't be planned.", list(dict.fromkeys(faults)))
    return Draft(request, facts)


def _with_files(request: PlanRequest, artifact: Callable[[Upload], ArtifactInput]) -> PlanRequest:
    """Return a request with an artifact in the place of each upload, of the job's inputs and of its nodes' own."""

    def found(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: artifact(value) if isinstance(value, Upload) else value for name, value in inputs.items()}

    nodes = {
        name: dataclasses.replace(node, inputs=found(node.inputs)) for name, node in request.component.nodes.items()
    }
    component = dataclasses.replace(request.component, nodes=nodes)
    return dataclasses.replace(request, inputs=found(request.inputs), component=component)


def _upload(services: Services, name: str, path: Path) -> Upload:
    path = path.expanduser()
    if not path.exists():
        raise InvalidFile(f"{name} is '{path}', which doesn't exist. Check the path.")
    return Upload(path.name, lambda: services.artifacts.put(path))


def _model_name(path: PathInput) -> str:
    """Return the name of the model that a path is; an empty text for something else."""
    reference = path.reference
    if not isinstance(reference, AssetReference) or reference.type is not AssetType.MODEL:
        return ""
    return path.text if reference.registry else str(reference)


def _pin(name: str) -> PinnedComponent:
    found = shipped(name)
    return PinnedComponent(component=found.component, code=found.code, is_trusted=True)
