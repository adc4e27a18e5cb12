"""One parameter, and the steps that take it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mafunzo.entities.component import Input
from mafunzo.entities.job import Value

TRUTH = ("true", "false")
IMPORT_MODEL, PREPARE_DATA, FINETUNE, EVALUATE, PACKAGE_MODEL = STEPS = (
    "import_model",
    "prepare_data",
    "finetune",
    "evaluate",
    "package_model",
)


@dataclass(frozen=True)
class Parameter:
    """One input of the pipeline.

    effect: what it does here, in one or two sentences. unit: of its value, where it has one.
    steps: the components that take it; none for those about machines, which the job only records.
    names: what a component calls it, where the pipeline's name would say too much. effects: what it does in a component, where
    the pipeline's text says too little of it.
    minimum, maximum: inclusive bounds; above: it must be greater.
    refused: a value (`*`: any but the default) to the reason why it is refused.
    aliases: what LLaMA-Factory, Axolotl, TRL, torchtune or OpenAI call it.
    is_own: whether it is an input that no other product's pipeline of this name has.
    """

    name: str
    type: str
    effect: str
    default: Value | None = None
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    unit: str = ""
    steps: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    effects: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    is_own: bool = False

    def name_in(self, step: str) -> str:
        """Return what a component calls it."""
        return self.names.get(step, self.name)

    def input_of(self, step: str) -> Input:
        """Return the declaration as a component's own input, which may be left out where the component is used alone."""
        declared = self.as_input()
        description = self.effects.get(step, declared.description)
        return replace(declared, name=self.name_in(step), description=description, is_optional=True)

    def as_input(self) -> Input:
        """Return the declaration that values are checked against."""
        return Input(
            name=self.name,
            type=self.type,
            description=self.effect + (f" Unit: {self.unit}." if self.unit else ""),
            is_optional=self.name != "task_name",
            default=self.default,
            enum=self.enum,
            minimum=self.minimum,
            maximum=self.maximum,
            exclusive_minimum=self.above,
            refused=self.refused,
            aliases=self.aliases,
        )


def typed(declared: Input | Parameter, value: Value | None) -> Value | None:
    """Return a checked value as code has it: one of `TRUTH` as a boolean, so that nothing else compares words."""
    return value == "true" if declared.enum == TRUTH else value
