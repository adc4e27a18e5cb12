"""The result of an evaluation, as values."""

from dataclasses import dataclass
from typing import Any

from mafunzo.compute.evaluation.compare import Comparison, Estimate
from mafunzo.compute.evaluation.metrics import Floats
from mafunzo.entities.conversation import Conversation


@dataclass(frozen=True)
class Sample:
    """One held-out conversation with the reference's reply and both models'."""

    prompt: Conversation
    reference: str
    base: str
    tuned: str
    file: str
    row: int


@dataclass(frozen=True)
class Forgetting:
    """What tuning changed on general prompts. `kl` in nats a token; `same_top_token` the share of positions."""

    kl: Estimate
    same_top_token: Estimate
    prompts: int
    positions: int
    reply_tokens: int
    kl_by_prompt: list[float]
    topics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """The result. `comparisons` by metric; the arrays are row by row, for pictures."""

    comparisons: dict[str, Comparison]
    forgetting: Forgetting | None
    samples: list[Sample]
    base_loss_by_row: Floats
    tuned_loss_by_row: Floats
    rouge_by_row: dict[str, dict[str, list[float]]]
    facts: dict[str, Any]
