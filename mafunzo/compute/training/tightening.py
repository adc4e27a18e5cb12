"""Tightening: what a run gives up where memory runs out although its plan had room, so that the step can be taken again.

The rows of a step stay, their order too, so that loss and gradient are those of a run that was planned like this from the
start. Each time the cheapest that is left is given up:

    a pass of several rows failed     passes of half as many tokens as that one had
    a pass of one row failed          half of the layers computed again, and no attention weights kept
    and again                         all layers computed again, and the fewest logits at a time
    and again                         nothing is left: training ends
"""

from dataclasses import dataclass, replace

from mafunzo.compute.training import attention
from mafunzo.compute.training.head_loss import PART, limit_chunk
from mafunzo.compute.training.recomputation import recomputable_layers, recompute_layers, recomputed_layers
from mafunzo.compute.training.run import Run


@dataclass(frozen=True)
class Tightness:
    """How a pass is made: its tokens at most, how many layers run again, of how many positions logits are made at a time.

    head_chunk: 0 for a network that makes all logits at once.
    """

    forward_tokens: int
    recomputed_layers: int
    head_chunk: int

    def beside(self, before: "Tightness") -> str:
        """Return what is another than before, in words."""
        parts = (
            (self.forward_tokens != before.forward_tokens, f"up to {self.forward_tokens:,} tokens in a forward pass"),
            (self.recomputed_layers != before.recomputed_layers, f"{self.recomputed_layers} layers computed again"),
            (self.head_chunk != before.head_chunk, f"logits of {self.head_chunk} positions at a time"),
        )
        return ", ".join(words for is_new, words in parts if is_new)


def tighten(now: Tightness, shared_tokens: int, layers: int) -> Tightness | None:
    """Return what comes next; None where nothing is left.

    shared_tokens: of the pass that failed, 0 where it had a single row. layers: that can run again.
    """
    if shared_tokens:
        return replace(now, forward_tokens=-(-shared_tokens // 2))
    half = -(-layers // 2)
    if now.recomputed_layers < half < layers:
        return replace(now, recomputed_layers=half)
    least = replace(now, recomputed_layers=layers, head_chunk=min(now.head_chunk, PART))
    return least if least != now else None


def use(run: Run, tightness: Tightness, keeps_attention: bool = True) -> None:
    """Have the run's network keep to it. keeps_attention: whether it goes on keeping the attention weights that it may."""
    if not keeps_attention:
        attention.limit_saved(run.network, 0)
    if tightness.head_chunk:
        limit_chunk(run.network, tightness.head_chunk)
    if recomputable_layers(run.network) > 0 and recomputed_layers(run.network) < tightness.recomputed_layers:
        recompute_layers(run.network, tightness.recomputed_layers)
