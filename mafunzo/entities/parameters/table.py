"""Every parameter of a fine-tuning job, declared once: type, default, allowed values, unit, effect, and what isn't honoured.

`tools/generate.py` writes the interfaces (`compute/components/*.yml`) and `docs/reference/parameters.md` from this table.
Names, types and defaults of the first part are those of Azure ML's `chat_completion_pipeline`, so that its users'
jobs run as they are; truth values are the strings "true" and "false", which code has as booleans (`typed`).
"""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.parameters.base_model import BASE_MODEL
from mafunzo.entities.parameters.data import DATA
from mafunzo.entities.parameters.evaluate import EVALUATION
from mafunzo.entities.parameters.finetune import TRAINING
from mafunzo.entities.parameters.machine import MACHINE
from mafunzo.entities.parameters.package import PACKAGE
from mafunzo.entities.parameters.parameter import Parameter, typed

_ALL = (*MACHINE, *BASE_MODEL, *DATA, *TRAINING, *EVALUATION, *PACKAGE)

PARAMETERS: Mapping[str, Parameter] = {
    parameter.name: parameter for parameter in sorted(_ALL, key=lambda parameter: parameter.is_own)
}
"""By name: those of Azure ML's pipeline, then our own."""

DEFAULTS: Mapping[str, Any] = {name: typed(parameter, parameter.default) for name, parameter in PARAMETERS.items()}
"""The default of each as its type, where it has one."""


def parameters_of(step: str) -> tuple[Parameter, ...]:
    """Return the parameters that a component takes."""
    return tuple(parameter for parameter in PARAMETERS.values() if step in parameter.steps)
