"""From a user's arguments to a `JobRequest` for a pipeline that ships: spellings, options, tags and files.

Nothing is looked up here but what the job is called by. Faults are collected, so that they come with those of the whole job.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mafunzo.control.workspace.model_source import ModelSource, ModelSources, import_title
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.shipped_component import shipped
from mafunzo.dataset.files import open_source
from mafunzo.entities.asset import Asset
from mafunzo.entities.component import Component, Input, parse_value, unknown_name
from mafunzo.entities.job import ArtifactInput
from mafunzo.entities.job_request import JobRequest
from mafunzo.entities.parameters.constraint import joined_names
from mafunzo.entities.parameters.score import SCORED_ROWS
from mafunzo.entities.reference import AssetReference, LocalPath, PathInput, parse_reference
from mafunzo.errors import Faults, InvalidParameter

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
MODEL = "mlflow_model_path"
"""The one of them that a model goes to which was named apart."""
MODEL_NAME = "base_model_name"
"""What a model is called whose files don't say."""
DATA_INPUTS = tuple(f"{split}_{kind}_path" for split in ("train", "validation", "test") for kind in ("file", "mltable"))
"""The inputs that are rows."""


@dataclass
class Arguments:
    """What a person gives for a pipeline, by its declared names. options: of `OPTIONS`, as their types."""

    pipeline: Component
    faults: Faults
    inputs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def take(self, values: Mapping[str, Any]) -> None:
        """Take in parameters and options by any of their names; what isn't given is None."""
        for name, option in OPTIONS.items():
            if (value := values.get(name)) is not None:
                self.options[name], fault = parse_value(option, value)
                self.faults.add(fault)
        if (tags := values.get("tags")) is not None:
            self.tags = _tags(tags, self.faults)
        others = {name: value for name, value in values.items() if name not in (*OPTIONS, "tags")}
        self.inputs |= declared_inputs(self.pipeline, others, self.faults, (*OPTIONS, "tags"))

    def add_files(self, files: Mapping[str, str | Path | None]) -> None:
        """Take in files under the names of inputs, beside those that stand among the parameters already."""
        for name, path in files.items():
            if path is not None and name in self.inputs:
                self.faults.add(f"{name} is given twice. Keep one.")
            elif path is not None:
                self.inputs[name] = path

    def add_model(self, model: str | Path | Asset | None) -> str:
        """Add the base model, which the pipeline's own inputs may name instead; return its display name."""
        model_inputs = [name for name in MODEL_INPUTS if name in self.inputs]
        if model is not None and model_inputs:
            self.faults.add(f"model and {model_inputs[0]} both name the base model. Keep one.")
        chosen = model if model is not None or not model_inputs else self.inputs[model_inputs[0]]
        if model is not None:
            self.inputs = {name: value for name, value in self.inputs.items() if name not in model_inputs}
            self.inputs[MODEL] = f"{model.name}:{model.version}" if isinstance(model, Asset) else model
        return _title(chosen)

    def first_rows(self) -> str:
        """Return the display name of the first file of rows."""
        return next((Path(self.inputs[name]).name for name in DATA_INPUTS if name in self.inputs), "nothing")

    def request(self, prefix: str, experiment: str, display_name: str, has_model_defaults: bool = False) -> JobRequest:
        """Return the request. prefix: what the name begins with where none is given; experiment, display_name: likewise."""
        options = self.options
        return JobRequest(
            name=options.get("job_name") or f"{prefix}-{secrets.token_hex(4)}",
            pipeline=replace(self.pipeline, nodes={}),
            component=self.pipeline.name,
            inputs={name: _input(value) for name, value in self.inputs.items()},
            display_name=options.get("display_name") or display_name,
            experiment=options.get("experiment") or experiment,
            priority=options.get("priority") or 0,
            force_rerun=options.get("force_rerun") or False,
            continue_on_step_failure=options.get("continue_on_step_failure") or False,
            has_model_defaults=has_model_defaults,
            tags=self.tags,
        )


def finetuning(
    model: str | Path | Asset | None, files: Mapping[str, str | Path | None], values: Mapping[str, Any], faults: Faults
) -> JobRequest:
    """Return the request to fine-tune a model on files by the inputs that they are of."""
    arguments = Arguments(shipped("chat_completion_pipeline").component, faults)
    arguments.take(values)
    title = arguments.add_model(model)
    arguments.add_files(files)
    display_name = f"{title} on {arguments.first_rows()}"
    return arguments.request("finetune", f"chat_completion_{title}", display_name, has_model_defaults=True)


def estimating(
    model: str | Path | Asset | None, files: Mapping[str, str | Path | None], values: Mapping[str, Any], faults: Faults
) -> JobRequest:
    """Return the request to estimate a fine-tuning, by the same arguments.

    Of its options, `priority` is this job's too; the others, and the tags, are checked here and belong to the fine-tuning.
    """
    arguments = Arguments(shipped("estimate_pipeline").component, faults)
    arguments.take(values)
    title = arguments.add_model(model)
    arguments.add_files(files)
    arguments.options = {name: value for name, value in arguments.options.items() if name == "priority"}
    arguments.tags = {}
    display_name = f"estimate {title} on {arguments.first_rows()}"
    return arguments.request("estimate", "estimate", display_name, has_model_defaults=True)


def comparison(
    services: Services,
    model: str,
    data: str | Path,
    against: str | None,
    values: Mapping[str, Any],
    faults: Faults,
) -> JobRequest:
    """Return the request to evaluate two models on the same rows; without `against`, the second is the first one's base."""
    arguments = Arguments(shipped("compare_models").component, faults)
    arguments.take(values)
    arguments.add_files({"test_file_path": data})
    arguments.inputs[f"tuned_{MODEL}"] = model
    unknown = ModelSource("another model", {"pytorch_model_path": ArtifactInput("")})
    if against is None:
        other = faults.attempt(lambda: _base_of(services, model), unknown)
        arguments.inputs |= other.inputs
    else:
        other = faults.attempt(lambda: ModelSources(services).source(against), unknown)
        arguments.inputs[MODEL] = against
    return arguments.request("compare", "compare", f"{model} against {other.name}")


def scoring(
    model: str | Path | Asset | None, data: str | Path | None, values: Mapping[str, Any], faults: Faults
) -> JobRequest:
    """Return the request to answer a file of rows with a model."""
    arguments = Arguments(shipped("batch_score_pipeline").component, faults)
    arguments.take(values)
    title = arguments.add_model(model)
    arguments.add_files({SCORED_ROWS.name: data})
    rows = Path(str(arguments.inputs.get(SCORED_ROWS.name, "nothing"))).name
    return arguments.request("score", "batch_score", f"{title} on {rows}")


def importing(services: Services, reference: str) -> JobRequest:
    """Return the request to fetch and convert a model; raises what is wrong with the model's name."""
    ModelSources(services).source(reference)
    arguments = Arguments(shipped("import_model_pipeline").component, Faults(), {MODEL: reference})
    return arguments.request("import", "import", import_title(reference))


def previewing(services: Services, model: str | Path, data: str | Path, values: Mapping[str, Any]) -> JobRequest:
    """Return the request to render rows; raises what is wrong with the file, or with the model's name."""
    open_source(Path(data).expanduser())
    ModelSources(services).source(model)
    inputs = {MODEL: model, "train_file_path": data, **values}
    arguments = Arguments(shipped("preview_data_pipeline").component, Faults(), inputs)
    return arguments.request("preview", "preview", f"preview {Path(data).name}")


def declared_inputs(
    component: Component, values: Mapping[str, Any], faults: Faults, others: Iterable[str] = ()
) -> dict[str, Any]:
    """Return values by the names that the component declares, of which they may have any alias; what isn't given is None.

    others: names that may be meant as well, for the fault of an unknown one.
    """
    aliases = {alias: declared.name for declared in component.inputs.values() for alias in declared.aliases}
    inputs: dict[str, Any] = {}
    for name, value in values.items():
        declared_name = name if name in component.inputs else aliases.get(name)
        if value is None:
            continue
        if declared_name is None:
            faults.add(unknown_name(name, [*component.inputs, *aliases, *others]))
        elif declared_name in inputs:
            faults.add(f"{name} and another name of {declared_name} are both given. Keep one.")
        else:
            inputs[declared_name] = joined_names(declared_name, value)
    return inputs


def _base_of(services: Services, model: str) -> ModelSource:
    """Return the base that was recorded with a model."""
    properties = ModelSources(services).get(model).properties
    base = properties.get("base_artifact")
    if base is None:
        raise InvalidParameter(f"{model} has no known base: name one with --against.")
    name = (properties.get("base_model") or {}).get("reference") or f"the base of {model}"
    return ModelSource(name, {"pytorch_model_path": ArtifactInput(base, name)})


def _input(value: Any) -> Any:
    return PathInput(LocalPath(str(value)), "", str(value)) if isinstance(value, Path) else value


def _title(model: object) -> str:
    """Return the name of a model for people: of an asset its name, of a folder or repository the last part of its path."""
    if isinstance(model, Asset):
        return model.name
    if model is None:
        return "model"
    reference = None if isinstance(model, Path) else parse_reference(str(model))
    if not isinstance(reference, AssetReference):
        return Path(str(model)).expanduser().absolute().name
    return str(reference) if reference.version or reference.label else reference.name


def _tags(value: Any, faults: Faults) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): str(text) for name, text in value.items()}
    pairs = [pair.partition("=") for pair in str(value).split(",")]
    if not all(name and equals for name, equals, _ in pairs):
        faults.add(f"tags is '{value}', expected name=value pairs with commas between.")
    return {name.strip(): text.strip() for name, _, text in pairs}
