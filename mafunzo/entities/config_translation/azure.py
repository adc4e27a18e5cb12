"""Azure ML's files about `chat_completion_pipeline`: a job of `az ml`, or the parameters alone.

Read are the job kind `finetuning` (`hyperparameters`), a pipeline with one node of that component (its `inputs`), and a plain
mapping of the component's inputs, as the notebooks of Azure's have it. Names and defaults are those of Mafunzo's own pipeline.
"""

import re
from collections.abc import Mapping
from typing import Any

from mafunzo.entities.config_translation.rule import Rule, Tool, as_number, drop, off, only, spelled
from mafunzo.entities.config_translation.translation import Config, Outcome, refused, taken
from mafunzo.entities.parameters.table import PARAMETERS

_BINDING = re.compile(r"\$\{\{\s*parent\.inputs\.(\w+)\s*\}\}")
_JOB_INPUTS = {
    "model": "mlflow_model_path",
    "training_data": "train_file_path",
    "validation_data": "validation_file_path",
}
"""What a fine-tuning job has beside its hyperparameters."""
_FILES = {"train_file_path": "train", "validation_file_path": "validation", "test_file_path": "test"}


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a file as one mapping: inputs of the component by their names, what is about the job by its own."""
    if body.get("type") == "finetuning":
        return _finetuning(body)
    nodes = body.get("jobs")
    if not isinstance(nodes, Mapping):
        return {key: _path(value) for key, value in body.items()}
    mine = [node for node in nodes.values() if "chat_completion_pipeline" in str(dict(node).get("component", ""))]
    if len(mine) != 1 or len(nodes) != 1:
        return {"jobs": sorted(nodes)}
    around = {key: value for key, value in body.items() if key not in ("jobs", "inputs")}
    given = body.get("inputs") or {}
    return around | {key: _path(_bound(value, given)) for key, value in (dict(mine[0]).get("inputs") or {}).items()}


def _finetuning(body: Mapping[str, Any]) -> dict[str, Any]:
    around = {
        key: value
        for key, value in body.items()
        if key not in ("hyperparameters", "training_data", "validation_data", "model")
    }
    files = {
        "mlflow_model_path": body.get("model"),
        "train_file_path": body.get("training_data"),
        "validation_file_path": body.get("validation_data"),
    }
    return (
        around | {key: _path(value) for key, value in files.items() if value} | dict(body.get("hyperparameters") or {})
    )


def _bound(value: Any, given: Mapping[str, Any]) -> Any:
    match = _BINDING.fullmatch(value) if isinstance(value, str) else None
    return given.get(match[1]) if match else value


def _path(value: Any) -> Any:
    return value.get("path") if isinstance(value, Mapping) and "path" in value else value


def _parameter(name: str) -> Rule:
    """Return the rule for an input of the pipeline, whose numbers may be texts."""

    def rule(value: Any, config: Config) -> Outcome:
        number = PARAMETERS[name].type in ("number", "integer") and isinstance(value, str)
        target = _FILES.get(name, name)
        if name in _FILES and str(value).startswith("azureml:"):
            return refused(f"data of a workspace at Azure isn't here: pass --{target} FILE", target)
        return taken(**{target: as_number(value) if number else spelled(name, value)})

    return rule


_ABOUT = "it is about the job, which `mafunzo finetune` makes"

RULES: dict[str, Rule] = {
    **{name: _parameter(name) for name in PARAMETERS},
    "type": only("pipeline", "finetuning", "pipeline_job", reason="expected a pipeline or a fine-tuning"),
    "task": only("chat_completion", "chatcompletion", "ChatCompletion", reason="expected chat_completion"),
    "model_provider": only("custom", reason="Azure OpenAI's models can't be trained here"),
    "jobs": off(
        "expected one node, of the component chat_completion_pipeline: `mafunzo create -f` runs other pipelines"
    ),
    "compute": drop(f"{_ABOUT}: --compute names where training runs"),
    "resources": drop(f"{_ABOUT}: --compute names where training runs"),
    "queue_settings": drop(_ABOUT),
    "settings": drop(_ABOUT),
    "outputs": drop("both outputs are kept: `mafunzo job download`"),
    "identity": drop(_ABOUT),
    "services": drop(_ABOUT),
    "properties": drop(_ABOUT),
    "$schema": drop("it says what file it is"),
    "name": lambda value, config: taken(job_name=value),
    "display_name": lambda value, config: taken(display_name=value),
    "experiment_name": lambda value, config: taken(experiment=value),
    "description": drop(_ABOUT),
    "tags": drop(_ABOUT),
}

PREFIXES: dict[str, Rule] = {}

TOOL = Tool("Azure ML", RULES, PREFIXES, lambda body: {}, _plain)
