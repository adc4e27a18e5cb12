"""The inputs of a pipeline that ships, with the checks that only those have: base model, rows, parameters between themselves.

Nothing is stored here: a file or folder becomes an `Upload`, whose bytes are stored once the whole job is known to be good.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mafunzo.control.workspace.model_source import ModelSource, ModelSources, Upload
from mafunzo.control.workspace.reference import stored
from mafunzo.control.workspace.request import DATA_INPUTS, MODEL_INPUTS, declared_inputs
from mafunzo.control.workspace.row_check import require_good
from mafunzo.control.workspace.services import Services
from mafunzo.entities.asset import AssetType
from mafunzo.entities.component import Component, parse_value
from mafunzo.entities.evaluation import evaluation_config, unmeasured
from mafunzo.entities.job import ArtifactInput
from mafunzo.entities.job_request import RequestInput
from mafunzo.entities.parameters.constraint import faults_between
from mafunzo.entities.parameters.parameter import typed
from mafunzo.entities.reference import AssetReference, LocalPath, PathInput
from mafunzo.errors import Faults, InvalidFile

_ROWS = {"train_file_path", "train_mltable_path"}
_EVALUATION = ("generation_rows", "gate", "gate_metric")


def resolved_inputs(
    services: Services,
    pipeline: Component,
    values: Mapping[str, RequestInput],
    faults: Faults,
    has_model_defaults: bool,
    local: Mapping[str, Path | None],
) -> dict[str, Any]:
    """Return the inputs by declared name, files as uploads, with the defaults of the base model's card if so asked.

    local: what lies at addresses that aren't stored yet.
    """
    work = _Inputs(services, pipeline, faults)
    work.look_up(declared_inputs(pipeline, values, faults), local)
    work.take_models(has_model_defaults)
    work.check_rows()
    work.check_parameters()
    work.take_uploads()
    return work.inputs


class _Inputs:
    """The inputs as they are looked up, one part after another; a fault is kept, and the work goes on."""

    def __init__(self, services: Services, pipeline: Component, faults: Faults) -> None:
        self._services = services
        self._pipeline = pipeline
        self._faults = faults
        self._names: set[str] = set()
        self.inputs: dict[str, Any] = {}

    def look_up(self, values: Mapping[str, RequestInput], local: Mapping[str, Path | None]) -> None:
        """Take in values, and what references stand for, of which a base model stays a name until its card is read."""
        self._names = set(values)
        for name, value in values.items():
            if not isinstance(value, PathInput):
                self.inputs[name] = value
            elif isinstance(value.reference, LocalPath):
                self.inputs[name] = Path(value.reference.path)
            elif (model := _model_name(value)) and self._is_model(name):
                self.inputs[name] = model
            elif path := local.get(value.text):
                self.inputs[name] = path
            elif artifact := self._faults.attempt(partial(stored, self._services, name, value), None):
                self.inputs[name] = artifact

    def take_models(self, has_defaults: bool) -> None:
        """Look up the base model, and in a comparison the tuned one, and check the ranges of their cards.

        has_defaults: whether the card's defaults stand in for what isn't given.
        """
        if self._has(*MODEL_INPUTS) and not self._take_model("", has_defaults):
            self._faults.add("model is missing: name a model of `mafunzo model list`, org/name of a hub, or a folder.")
        if self._has(*(f"tuned_{name}" for name in MODEL_INPUTS)):
            self._take_model("tuned_", False)

    def _take_model(self, prefix: str, has_defaults: bool) -> bool:
        """Put the inputs of the model in the place of what names it; return whether anything does."""
        names = [f"{prefix}{name}" for name in MODEL_INPUTS if f"{prefix}{name}" in self.inputs]
        if not names:
            return False
        model, *_ = [self.inputs.pop(name) for name in names]
        if isinstance(model, ArtifactInput | Upload):  # uploaded already
            self.inputs[names[0]] = model
            return True
        source = self._faults.attempt(lambda: ModelSources(self._services).source(model), None)
        if source is not None:
            inputs = {f"{prefix}{name}": value for name, value in source.inputs.items()}
            self.inputs = {**(source.defaults if has_defaults else {}), **self.inputs, **inputs}
            self._check_ranges(source)
        return True

    def check_rows(self) -> None:
        """Check every row of the data files, in a pipeline that can say what becomes of bad ones."""
        if "train_mltable_path" in self._pipeline.inputs and not self._names & _ROWS:
            self._faults.add("train is missing: name a file of conversations to learn from.")
        if "on_bad_row" not in self._pipeline.inputs:
            return
        values = {name: self.inputs[name] for name in DATA_INPUTS if name in self.inputs}
        paths = [Path(value).expanduser() for value in values.values() if isinstance(value, str | Path)]
        policy = str(self.inputs.get("on_bad_row", "fail"))
        # In the home, where a checkout is a hard link.
        with tempfile.TemporaryDirectory(prefix=".rows-", dir=self._services.home.root) as scratch:
            uploaded = [
                self._services.artifacts.checkout(value.artifact, Path(scratch) / name)
                for name, value in values.items()
                if isinstance(value, ArtifactInput)
            ]
            files = [*(path for path in paths if path.exists()), *uploaded]
            self._faults.attempt(lambda: require_good(files, policy), None)

    def check_parameters(self) -> None:
        """Find the faults between parameters that are each in their range, and of what is to be measured."""
        values = self._values()
        if self._has("apply_early_stopping"):
            self._faults.add(*faults_between(values))
        if self._has("evaluation_config_params"):
            self._check_evaluation(values)

    def _check_evaluation(self, values: Mapping[str, Any]) -> None:
        texts: dict[str, str] = {}
        file = self.inputs.get("evaluation_config")
        if isinstance(file, str | Path) and Path(file).expanduser().is_file():
            texts[f"evaluation_config ({file})"] = Path(file).expanduser().read_text(encoding="utf-8")
        if values.get("evaluation_config_params"):
            texts["evaluation_config_params"] = str(values["evaluation_config_params"])
        config = self._faults.attempt(lambda: evaluation_config(texts), None)
        if config is not None:
            self._faults.add(*unmeasured(config, *(values[name] for name in _EVALUATION)))

    def take_uploads(self) -> None:
        """Turn every path among the inputs into an upload."""
        for name, value in self.inputs.items():
            if self._pipeline.inputs[name].is_path and isinstance(value, str | Path):
                upload = self._faults.attempt(partial(_upload, self._services, name, Path(value)), None)
                self.inputs[name] = upload or ArtifactInput("")  # told: the plan need not tell it again

    def _check_ranges(self, source: ModelSource) -> None:
        values = self._values()
        for name, (low, high) in source.ranges.items():
            value = values.get(name)
            if isinstance(value, int | float) and not low <= value <= high:
                self._faults.add(f"{name} is {value}, expected {low:g} to {high:g} for {source.name}.")

    def _values(self) -> dict[str, Any]:
        """Return every literal input as its type; a broken one, which the plan tells of, has its default."""
        values: dict[str, Any] = {}
        for name, declared in self._pipeline.inputs.items():
            value = self.inputs.get(name)
            parsed = None if declared.is_path or value is None else parse_value(declared, value)[0]
            values[name] = typed(declared, declared.default if parsed is None else parsed)
        return values

    def _has(self, *names: str) -> bool:
        return any(name in self._pipeline.inputs for name in names)

    def _is_model(self, name: str) -> bool:
        return name.removeprefix("tuned_") in MODEL_INPUTS


def _model_name(path: PathInput) -> str:
    """Return the name of the model that a path is; an empty text for something else."""
    reference = path.reference
    if not isinstance(reference, AssetReference) or reference.type is not AssetType.MODEL:
        return ""
    return path.text if reference.registry else str(reference)


def _upload(services: Services, name: str, path: Path) -> Upload:
    path = path.expanduser()
    if not path.exists():
        raise InvalidFile(f"{name} is '{path}', which doesn't exist. Check the path.")
    return Upload(path.name, lambda: services.artifacts.put(path))
