"""Every parameter of a fine-tuning job, declared once: type, default, allowed values, unit, effect, and what isn't honoured.

`tools/generate.py` writes the interfaces (`compute/components/*.yml`) and `docs/reference/parameters.md` from this table.
Names, types and defaults of the first part are those of Azure ML's `chat_completion_pipeline`, so that its users'
jobs run as they are; truth values are the strings "true" and "false".
"""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.component import parse_value
from mafunzo.entities.job import Value
from mafunzo.entities.parameters.base_model import BASE_MODEL
from mafunzo.entities.parameters.constraint import faults_between
from mafunzo.entities.parameters.data import DATA
from mafunzo.entities.parameters.evaluate import EVALUATION
from mafunzo.entities.parameters.finetune import TRAINING
from mafunzo.entities.parameters.machine import MACHINE
from mafunzo.entities.parameters.package import PACKAGE
from mafunzo.entities.parameters.parameter import FINETUNE, Parameter

_ALL = (*MACHINE, *BASE_MODEL, *DATA, *TRAINING, *EVALUATION, *PACKAGE)

PARAMETERS: Mapping[str, Parameter] = {
    parameter.name: parameter for parameter in sorted(_ALL, key=lambda parameter: not parameter.is_azure)
}
"""By name: those of Azure ML's pipeline, then our own."""


def parameters_of(step: str) -> tuple[Parameter, ...]:
    """Return the parameters that a component takes."""
    return tuple(parameter for parameter in PARAMETERS.values() if step in parameter.steps)


def resolve(raw_values: Mapping[str, Any], step: str = FINETUNE) -> tuple[dict[str, Value | None], list[str]]:
    """Return the values of a step with defaults filled in, and all faults of `raw_values`."""
    values: dict[str, Value | None] = {}
    faults: list[str] = []
    for parameter in parameters_of(step):
        raw = raw_values.get(parameter.name)
        if raw is None:
            values[parameter.name] = parameter.default
        else:
            values[parameter.name], fault = parse_value(parameter.as_input(), raw)
            faults += [fault] if fault else []
    return values, faults or check(values)


def check(values: Mapping[str, Any]) -> list[str]:
    """Return the faults between parameters that are each in their range; a parameter that isn't given has its default."""
    defaults = {name: parameter.default for name, parameter in PARAMETERS.items()}
    return faults_between(defaults | {name: value for name, value in values.items() if value is not None})
