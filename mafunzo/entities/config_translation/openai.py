"""The body of OpenAI's `POST /v1/fine_tuning/jobs`, as JSON or YAML."""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.config_translation.rule import Rule, Tool, as_number, drop, off, only, take
from mafunzo.entities.config_translation.translation import Config, Outcome, changed, refused, taken

BASE_LEARNING_RATE = 2e-4
"""What `learning_rate_multiplier` is a multiple of here: usual for adapters. OpenAI doesn't say what it is there."""
AUTO_EPOCHS = 3
WHAT_IS_TRAINED = "(what is trained)"
AUTO = "auto is for OpenAI to choose"


def _file(target: str) -> Rule:
    def rule(value: Any, config: Config) -> Outcome:
        if config.files.exists(str(value)):
            return taken(**{target: value})
        return refused(f"no file here; an id of a file at OpenAI can't be read: pass --{target} FILE", target)

    return rule


def _epochs(value: Any, config: Config) -> Outcome:
    return changed(AUTO, num_train_epochs=AUTO_EPOCHS) if value == "auto" else taken(num_train_epochs=value)


def _batch(value: Any, config: Config) -> Outcome:
    return changed(AUTO, per_device_train_batch_size=1) if value == "auto" else taken(per_device_train_batch_size=value)


def _learning_rate(value: Any, config: Config) -> Outcome:
    factor = 1.0 if value == "auto" else as_number(str(value))
    if not isinstance(factor, int | float):
        return refused("expected a number or auto", "learning_rate")
    return changed(
        f"times {BASE_LEARNING_RATE:g}, as OpenAI doesn't say of what", learning_rate=factor * BASE_LEARNING_RATE
    )


def _adapters(value: Any, config: Config) -> Outcome:
    return changed("OpenAI doesn't say what is trained; adapters are", apply_lora="true")


_HYPERPARAMETERS: dict[str, Rule] = {
    "n_epochs": _epochs,
    "batch_size": _batch,
    "learning_rate_multiplier": _learning_rate,
}

RULES: dict[str, Rule] = {
    "model": take("model"),
    "training_file": _file("train"),
    "validation_file": _file("validation"),
    "seed": take("seed"),
    "suffix": drop("a tuned model is named when it is registered: `mafunzo model register JOB --name NAME`"),
    "metadata": drop("tags name a job"),
    "integrations": only([], reason="metrics are recorded here, and MLflow reads them: leave it out"),
    "method.type": only("supervised", reason="`mafunzo finetune` is supervised fine-tuning"),
    "method.dpo": off("`mafunzo finetune` is supervised fine-tuning"),
    "method.reinforcement": off("`mafunzo finetune` is supervised fine-tuning"),
    **{f"hyperparameters.{name}": rule for name, rule in _HYPERPARAMETERS.items()},
    **{f"method.supervised.hyperparameters.{name}": rule for name, rule in _HYPERPARAMETERS.items()},
    WHAT_IS_TRAINED: _adapters,
}

PREFIXES: dict[str, Rule] = {"metadata.": drop("tags name a job")}


def _defaults(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `auto` for what a request doesn't say, in whichever of the two places it writes to."""
    is_old = any(key.startswith("hyperparameters.") for key in body)
    place = "hyperparameters." if is_old else "method.supervised.hyperparameters."
    return {WHAT_IS_TRAINED: "not said", **{f"{place}{name}": "auto" for name in _HYPERPARAMETERS}}


TOOL = Tool("OpenAI", RULES, PREFIXES, _defaults)
