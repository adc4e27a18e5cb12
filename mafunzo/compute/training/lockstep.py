"""Lockstep: passes that all ranks make equally often, where gradients or weights are gathered during each of them.

Ranks share a step's rows by their tokens, so that one may have more passes than another, or none. Where it would wait for
the others in a pass that they don't make, these make it too, over a few tokens and for nothing:

    rank 0   rows 3 9 | row 4 | row 7        a pass's loss counts by its share of the step: 1 / n_terms
    rank 1   row  1   | row 2 | filler       a filler's by 0

The invariant: every pass of a step has a loss that is differentiated, and runs each layer as often on every rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mafunzo.compute.training.batch import Batch, pack
from mafunzo.compute.training.run import Run

FILLER_TOKENS = 2
"""Tokens of a filler's sequence: one that is given to the network, and its target."""


@dataclass(frozen=True)
class Pass:
    """A batch, whether it is one of the step's own, and whether it is the step's last on any rank."""

    batch: Batch
    is_own: bool
    is_last: bool


def passes_of(run: Run, batches: Sequence[Batch], terms: Sequence[int]) -> list[Pass]:
    """Return this rank's passes over its batches of a step; in lockstep as many as the rank with the most has."""
    if not run.stepper.in_lockstep:
        last = max((index for index, count in enumerate(terms) if count), default=None)
        return [Pass(batch, True, index == last) for index, batch in enumerate(batches)]
    own = [batch for batch, count in zip(batches, terms, strict=True) if count]
    n_passes = run.ranks.most(len(own))
    fillers = [filler(run)] * (n_passes - len(own))
    return [Pass(batch, index < len(own), index + 1 == n_passes) for index, batch in enumerate([*own, *fillers])]


def filler(run: Run) -> Batch:
    """Return a batch of the first row's first tokens."""
    return pack([tuple((ids[:FILLER_TOKENS], ids[:FILLER_TOKENS]) for ids, _ in run.rows.row(0))])


def rows_alone(run: Run) -> bool:
    """Return whether each pass must have one row: where weights are gathered layer by layer, and sequences don't share a
    line, rows would decide how often a layer runs."""
    packed = run.packed
    return run.stepper.shards_weights and (not packed.packs or packed.longest_packed > 0)
