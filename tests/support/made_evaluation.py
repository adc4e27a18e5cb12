"""An evaluation that nobody measured, as values: what reports and pictures are made of."""

from typing import Any

import numpy as np

from mafunzo.compute.evaluation.compare import Comparison, Estimate
from mafunzo.compute.evaluation.result import Evaluation, Forgetting, Sample
from mafunzo.entities.conversation import Conversation, Message

LOSS = Comparison(
    name="loss",
    title="Loss (nats a token)",
    is_higher_better=False,
    base=Estimate(3.0, 2.8, 3.2),
    tuned=Estimate(2.5, 2.3, 2.7),
    difference=Estimate(-0.5, -0.6, -0.4),
    is_better=True,
    rows=40,
)
SAMPLE = Sample(Conversation((Message("user", "Hi"),)), "Hello!", "Hey", "Hello", "test.jsonl", 3)


def made_evaluation(*comparisons: Comparison, **changes: Any) -> Evaluation:
    """Return an evaluation with these comparisons (by default of the loss alone)."""
    values = {
        "comparisons": {comparison.name: comparison for comparison in comparisons or (LOSS,)},
        "forgetting": None,
        "samples": [SAMPLE],
        "base_loss_by_row": np.array([3.0, 2.0, 4.0]),
        "tuned_loss_by_row": np.array([2.0, 2.5, 3.0]),
        "rouge_by_row": {},
        "facts": {"base": {"name": "tiny"}, "data": {"rows": 40, "files": ["a", "b"]}},
    }
    return Evaluation(**(values | changes))


FORGETTING = Forgetting(
    kl=Estimate(0.25, 0.2, 0.3),
    same_top_token=Estimate(0.9, 0.85, 0.95),
    prompts=8,
    positions=100,
    reply_tokens=16,
    kl_by_prompt=[0.2, 0.3],
    topics={"code": 0.2, "law": 0.3},
)
