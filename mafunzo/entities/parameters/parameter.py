"""One parameter, and the steps that take it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    minimum, maximum: inclusive bounds; above: it must be greater.
    refused: a value (`*`: any but the default) to the reason why it is refused.
    aliases: what LLaMA-Factory, Axolotl, TRL, torchtune or OpenAI call it.
    is_azure: whether it is an input of Azure ML's pipeline too.
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
    refused: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    is_azure: bool = True

    @property
    def is_optional(self) -> bool:
        return self.name != "task_name"

    def as_input(self) -> Input:
        """Return the declaration that values are checked against."""
        return Input(
            name=self.name,
            type=self.type,
            description=self.effect,
            is_optional=self.is_optional,
            default=self.default,
            enum=self.enum,
            minimum=self.minimum,
            maximum=self.maximum,
            exclusive_minimum=self.above,
            refused=self.refused,
            aliases=self.aliases,
        )
