"""A pipeline that ships as a job: its nodes, and its inputs with the checks that only those have (model, rows, parameters).

Nothing is stored here: a file or folder becomes an `Upload`, whose bytes are stored once the whole job is known to be good.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mafunzo.control.pipelines.binding import filled
from mafunzo.control.workspace.arguments import DATA_INPUTS, MODEL_INPUTS, MODEL_NAME, declared_inputs
from mafunzo.control.workspace.model_source import ModelSource, ModelSources, Upload
from mafunzo.control.workspace.resolver import resolve
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.shipped_component import shipped, shipped_names
from mafunzo.dataset.check import Report, check_source, refuse
from mafunzo.dataset.files import open_source
from mafunzo.dataset.question import read_questions
from mafunzo.dataset.repeats import by_split
from mafunzo.entities.asset import AssetType
from mafunzo.entities.component import PARENT_INPUT, PARENT_OUTPUT, Component, Node, parse_value, unknown_name
from mafunzo.entities.deepspeed import deepspeed_config
from mafunzo.entities.evaluation import evaluation_config, too_few, unmeasured
from mafunzo.entities.job import ArtifactInput
from mafunzo.entities.job_request import JobRequest, RequestInput
from mafunzo.entities.parameters.constraint import faults_between
from mafunzo.entities.parameters.lora import without_faults
from mafunzo.entities.parameters.parameter import typed
from mafunzo.entities.parameters.score import SCORED_ROWS, scoring_faults
from mafunzo.entities.parameters.target_modules import OF_TARGETS, TargetModules
from mafunzo.entities.reference import AssetReference, LocalPath, PathInput, Reference
from mafunzo.errors import Faults


def shipped_pipeline(request: JobRequest) -> Component | None:
    """Return the pipeline that ships which a job, or its only node, is; None for another job."""
    nodes = list(request.pipeline.nodes.values())
    if request.commands or len(nodes) > 1:
        return None
    component = nodes[0].component if nodes else request.component
    if isinstance(component, AssetReference):
        component = component.name if component.registry else None
    if component is None or component not in shipped_names():
        return None
    pipeline = shipped(component).component
    return pipeline if pipeline.kind == "pipeline" else None


def inlined(request: JobRequest, pipeline: Component, faults: Faults) -> JobRequest:
    """Return a request for a pipeline that ships with that one's nodes, bound to what the job is given and gives."""
    inputs, names = dict(request.inputs), {name: name for name in request.pipeline.outputs}
    for node in request.pipeline.nodes.values():  # the only one
        inputs = _bound_inputs(node, request.inputs, faults)
        names = {output: match[1] for output, text in node.outputs.items() if (match := PARENT_OUTPUT.fullmatch(text))}
    faults.add(*(unknown_name(output, pipeline.outputs) for output in names if output not in pipeline.outputs))
    return replace(request, pipeline=_with_outputs(pipeline, names), inputs=inputs, component=None)


def resolved_inputs(
    services: Services,
    pipeline: Component,
    values: Mapping[str, RequestInput],
    faults: Faults,
    has_model_defaults: bool,
    local: Mapping[str, Path | None],
    notes: list[str],
) -> dict[str, Any]:
    """Return the inputs by declared name, files as uploads, with the defaults of the base model's card if so asked.

    local: what lies at addresses that aren't stored yet. notes: takes what the job will do with rows that are unusual, that
    repeat, or that can't be used, and what no adapter will reach.
    """
    work = _Inputs(services, pipeline, faults)
    names = work.look_up(declared_inputs(pipeline, values, faults), local)
    work.take_models(has_model_defaults)
    if "train_mltable_path" in pipeline.inputs and not names & {"train_file_path", "train_mltable_path"}:
        faults.add("train is missing: name a file of conversations to learn from.")
    if "on_bad_row" in pipeline.inputs:
        work.check_rows()
    if SCORED_ROWS.name in pipeline.inputs:
        work.check_questions(notes)
    work.check_values()
    notes += work.look_between_files() + work.model_notes
    work.take_uploads()
    return work.inputs


class _Inputs:
    """The inputs as they are looked up, one part after another; a fault is kept, and the work goes on."""

    def __init__(self, services: Services, pipeline: Component, faults: Faults) -> None:
        self._services = services
        self._pipeline = pipeline
        self._faults = faults
        self._models: list[ModelSource] = []
        self._reports: dict[str, Report] = {}
        self.model_notes: list[str] = []
        self.inputs: dict[str, Any] = {}

    def look_up(self, values: Mapping[str, RequestInput], local: Mapping[str, Path | None]) -> set[str]:
        """Take in values, and what references stand for; return the names of all."""
        for name, value in values.items():
            if not isinstance(value, PathInput):
                self.inputs[name] = value
            elif isinstance(value.reference, LocalPath):
                self.inputs[name] = Path(value.reference.path)
            elif _is_model(value.reference) and name.removeprefix("tuned_") in MODEL_INPUTS:
                self.inputs[name] = value.reference  # until its card is read
            elif path := local.get(value.text):
                self.inputs[name] = path
            elif artifact := self._faults.attempt(partial(resolve, self._services, name, value), None):
                self.inputs[name] = artifact
        return set(values)

    def take_models(self, has_defaults: bool) -> None:
        """Look up the base model, and in a comparison the tuned one.

        has_defaults: whether the card's defaults stand in for what isn't given.
        """
        if not self._take_model("", has_defaults) and self._pipeline.inputs.keys() & MODEL_INPUTS:
            self._faults.add("model is missing: name a model of `mafunzo model list`, org/name of a hub, or a folder.")
        self._take_model("tuned_", False)

    def _take_model(self, prefix: str, has_defaults: bool) -> bool:
        """Put the inputs of the model in the place of what names it; return whether anything does."""
        names = [f"{prefix}{name}" for name in MODEL_INPUTS if f"{prefix}{name}" in self.inputs]
        if not names:
            return False
        model, *_ = [self.inputs.pop(name) for name in names]
        if isinstance(model, ArtifactInput | Upload):  # uploaded already
            self.inputs[names[0]] = model
            name = model.name.partition(":")[0]
            self._name_model(prefix, name)
            if isinstance(model, ArtifactInput) and model.artifact:
                layers = ModelSources(self._services).stored_layers(model.artifact)
                self._models.append(ModelSource(name or names[0], {}, layers=layers))
            return True
        source = self._faults.attempt(lambda: ModelSources(self._services).source(model), None)
        if source is not None:
            inputs = {f"{prefix}{name}": value for name, value in source.inputs.items()}
            self.inputs = {**(source.defaults if has_defaults else {}), **self.inputs, **inputs}
            self._name_model(prefix, source.own_name)
            has_template = "finetune_config_path" in self.inputs
            self._faults.add(*source.faults, "" if has_template else source.template_fault)
            self._models.append(source)
        return True

    def _name_model(self, prefix: str, name: str) -> None:
        """Give the name of a model on, which its folder loses on the way into a step."""
        declared = f"{prefix}{MODEL_NAME}"
        if name and declared in self._pipeline.inputs:
            self.inputs.setdefault(declared, name)

    def check_rows(self) -> None:
        """Check every row of the data files."""
        policy = str(self.inputs.get("on_bad_row", "fail"))
        with self._files(DATA_INPUTS) as files:
            reports = self._faults.attempt(lambda: require_good_rows(files.values(), policy), None)
            self._reports = dict(zip(files, reports or (), strict=False))

    def check_questions(self, notes: list[str]) -> None:
        """Read every row that is to be answered; to have none is a fault, and rows that ask nothing are noted."""
        with self._files((SCORED_ROWS.name,)) as files:
            checks = [self._faults.attempt(partial(_question_faults, path), None) for path in files.values()]
        for faults, rows in filter(None, checks):
            if len(faults) == rows:
                self._faults.add(f"data has no row that can be answered, the first one {faults[0]}")
            elif faults:
                few = f"{len(faults)} of the {rows} rows"
                notes.append(f"{few} can't be answered and get an error each, the first one {faults[0]}")

    @contextmanager
    def _files(self, names: Iterable[str]) -> Iterator[dict[str, Path]]:
        """Give the files among some inputs that are there, those that are stored already too."""
        values = {name: self.inputs[name] for name in names if name in self.inputs}
        paths = {name: Path(value).expanduser() for name, value in values.items() if isinstance(value, str | Path)}
        # In the home, where a checkout is a hard link.
        with tempfile.TemporaryDirectory(prefix=".rows-", dir=self._services.home.root) as scratch:
            uploaded = {
                name: self._services.artifacts.checkout(value.artifact, Path(scratch) / name)
                for name, value in values.items()
                if isinstance(value, ArtifactInput)
            }
            yield {**{name: path for name, path in paths.items() if path.exists()}, **uploaded}

    def look_between_files(self) -> list[str]:
        """Return what the job will do with the rows of its files; too few of them are a fault. An MLTable wins over a file."""
        reports = {name.split("_")[0]: report for name, report in sorted(self._reports.items())}
        splits = by_split(reports, self.inputs.get("split_seed"))
        self._faults.add(splits.fault())
        return splits.notes()

    def check_values(self) -> None:
        """Put values in the place of texts; find the faults between them, and against the ranges of the models' cards."""
        values = self._parse()
        for model in self._models:
            for name, (low, high) in model.ranges.items():
                value = values.get(name)
                if isinstance(value, int | float) and not low <= value <= high:
                    self._faults.add(
                        f"{name} is {value}, expected {low:g} to {high:g} for {model.name}, whose card is narrower than the "
                        f"parameter (mafunzo model show {model.name})."
                    )
            if "lora_target_modules" in values:
                self._check_layers(model, without_faults(values))
        if "apply_early_stopping" in self._pipeline.inputs:
            self._faults.add(*faults_between(values))
        if "deepspeed" in self._pipeline.inputs:
            self._check_deepspeed(values)
        if SCORED_ROWS.name in self._pipeline.inputs:
            self._faults.add(*scoring_faults(values))
        if "evaluation_config_params" in self._pipeline.inputs:
            self._check_evaluation(values)

    def _check_layers(self, model: ModelSource, values: Mapping[str, Any]) -> None:
        """Find what names no layer of a model, and note what is to be known of its adapter."""
        is_lora, targets = bool(values["apply_lora"]), TargetModules.of(values)
        if model.layers is not None:
            self._faults.add(*model.layers.faults(model.name, is_lora, targets))
            self.model_notes += model.layers.notes(model.name, is_lora, targets)
        elif is_lora and not targets.is_default:
            named = ", ".join(f"{name} ({values[name]})" for name in OF_TARGETS if values[name])
            self.model_notes.append(
                f"Whether {model.name} has the layers of {named} can't be told before it is fetched: the finetune step fails "
                f"for one that it hasn't. Import it first to have them checked: mafunzo model import {model.name}"
            )

    def _parse(self) -> dict[str, Any]:
        """Return every literal input as its type; a broken one, which the plan tells of, has its default."""
        values: dict[str, Any] = {}
        for name, declared in self._pipeline.inputs.items():
            value = self.inputs.get(name)
            parsed = None if declared.is_path or value is None else parse_value(declared, value)[0]
            if parsed is not None:
                self.inputs[name] = parsed
            values[name] = typed(declared, declared.default if parsed is None else parsed)
        return values

    def _check_deepspeed(self, values: Mapping[str, Any]) -> None:
        text, file = self._text_of("deepspeed"), self.inputs.get("deepspeed")
        if text is not None:
            where = f"deepspeed ({file.name if isinstance(file, ArtifactInput | Upload) else file})"
            self._faults.attempt(lambda: deepspeed_config(text, where, values), None)
        elif isinstance(file, str | Path) and Path(file).expanduser().is_dir():
            self._faults.add(f"deepspeed is '{file}', a folder. Name the JSON file in it.")

    def _text_of(self, name: str) -> str | None:
        """Return the text of a file input, uploaded already or not; None where there is none that can be read."""
        value = self.inputs.get(name)
        if isinstance(value, str | Path):
            path = Path(value).expanduser()
            return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
        if not isinstance(value, ArtifactInput) or not value.artifact:
            return None
        with tempfile.TemporaryDirectory(prefix=".text-", dir=self._services.home.root) as scratch:
            path = self._services.artifacts.checkout(value.artifact, Path(scratch) / name)
            return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def _check_evaluation(self, values: Mapping[str, Any]) -> None:
        texts: dict[str, str] = {}
        file = self.inputs.get("evaluation_config")
        if isinstance(file, str | Path) and Path(file).expanduser().is_file():
            texts[f"evaluation_config ({file})"] = Path(file).expanduser().read_text(encoding="utf-8")
        if values.get("evaluation_config_params"):
            texts["evaluation_config_params"] = str(values["evaluation_config_params"])
        config = self._faults.attempt(lambda: evaluation_config(texts), None)
        if config is not None:
            self._faults.add(*unmeasured(config, values["generation_rows"], values["gate"], values["gate_metric"]))
            self._faults.add(*too_few(values))

    def take_uploads(self) -> None:
        """Turn every path among the inputs into an upload."""
        for name, value in self.inputs.items():
            if not self._pipeline.inputs[name].is_path or not isinstance(value, str | Path):
                continue
            path = Path(value).expanduser()
            if path.exists():
                self.inputs[name] = Upload(path.name, partial(self._services.artifacts.put, path))
            else:
                self._faults.add(f"{name} is '{path}', which doesn't exist. Check the path.")
                self.inputs[name] = ArtifactInput("")  # told: the plan need not tell it again


def _is_model(reference: Reference | None) -> bool:
    return isinstance(reference, AssetReference) and reference.type is AssetType.MODEL


def require_good_rows(files: Iterable[Path], on_bad_row: str) -> list[Report]:
    """Return the report on each file.

    Raises `InvalidData` naming every bad row of all files, unless the policy is to skip them; `InvalidFile` for no file.
    """
    reports = [check_source(open_source(file)) for file in files]
    if on_bad_row != "skip":
        refuse([row for report in reports for row in report.bad])
    return reports


def _question_faults(file: Path) -> tuple[list[str], int]:
    """Return why rows of a file ask nothing, each with its place, and how many rows there are. Raises `InvalidFile`."""
    source = open_source(file)
    faults = [f"({row.file}, row {row.row}): {row.fault}" for row in read_questions(source) if row.fault]
    return faults, source.count()


def _bound_inputs(node: Node, values: Mapping[str, RequestInput], faults: Faults) -> dict[str, RequestInput]:
    """Return a node's inputs, with the job's values in the place of bindings."""
    inputs: dict[str, RequestInput] = {}
    for name, value in node.inputs.items():
        match = PARENT_INPUT.fullmatch(value.strip()) if isinstance(value, str) else None
        if match and match[1] in values:
            inputs[name] = values[match[1]]
        elif isinstance(value, str):
            inputs[name], fault = filled(value, values)
            faults.add(f"{name} {fault}" if fault else "")
        elif value is not None:
            inputs[name] = value
    return inputs


def _with_outputs(pipeline: Component, names: Mapping[str, str]) -> Component:
    """Return a pipeline that gives some of its outputs, each under another name: `names` maps its own to those."""
    outputs = {theirs: pipeline.outputs[ours] for ours, theirs in names.items() if ours in pipeline.outputs}
    renamed = {f"${{{{parent.outputs.{ours}}}}}": f"${{{{parent.outputs.{theirs}}}}}" for ours, theirs in names.items()}
    nodes = {
        name: replace(
            node, outputs={output: renamed[target] for output, target in node.outputs.items() if target in renamed}
        )
        for name, node in pipeline.nodes.items()
    }
    return replace(pipeline, outputs=outputs, nodes=nodes)
