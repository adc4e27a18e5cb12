"""Validation: the loss on held-out rows while training goes on, when it is due, and early stopping by it."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from mafunzo.compute.device.memory import release
from mafunzo.compute.device.out_of_memory import is_out_of_memory
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.batch import Row, Rows, pack
from mafunzo.compute.training.data_order import DataOrder, groups_of
from mafunzo.compute.training.lockstep import filler, rows_alone
from mafunzo.compute.training.network import PackedNetwork
from mafunzo.compute.training.run import Run
from mafunzo.compute.training.state import TrainingState
from mafunzo.errors import OutOfMemory
from mafunzo.tracking.progress import Progress

logger = logging.getLogger(__name__)

Validator = Callable[[PackedNetwork], dict[str, float]]
"""A network in, numbers out; `eval_loss` is the one that the best checkpoint and early stopping go by."""


def make_validator(
    run: Run, pass_tokens: Callable[[], int], on_batch: Callable[[], None] = lambda: None
) -> Validator | None:
    """Return the validation of a run: the loss and metrics of its own objective, or None without validation rows.

    pass_tokens: returns how many tokens share a forward pass, by the memory plan. on_batch: called after each batch.
    """
    return None if run.validation_rows is None else partial(_validate, run, run.validation_rows, pass_tokens, on_batch)


def _validate(
    run: Run, rows: Rows, pass_tokens: Callable[[], int], on_batch: Callable[[], None], packed: PackedNetwork
) -> dict[str, float]:
    """Run the objective over all validation rows, in their order; several processes take turns at the batches.

    A batch is one forward pass where it has no more tokens than one of training, so that validation takes no more memory than
    the plan knows of; else it is several, with the same sums. Each process makes as many turns, at the last one perhaps without
    a batch, so that `on_batch` is called equally often.
    """
    objective, n_rows = run.objective, len(rows)
    batch_rows = 1 if rows_alone(run) else run.arguments.per_device_eval_batch_size
    starts = range(0, n_rows, batch_rows)
    rank, size = run.ranks.rank, run.ranks.size
    progress = Progress("evaluate", n_rows)
    started = time.monotonic()
    loss_sum, terms, counts = 0.0, 0, Counter[str]()
    pass_rows = batch_rows
    packed.network.eval()
    with torch.no_grad(), run.autocast():
        for turn in range(0, len(starts), size):
            start = (turn + rank) * batch_rows
            own = range(start, min(start + batch_rows, n_rows))  # empty for a rank that has no batch at the last turn
            sums, pass_rows = _turn(run, rows, own, packed, pass_rows, pass_tokens())
            loss_sum += sums.loss
            terms += sums.terms
            counts.update(sums.counts)
            done = min((turn + size) * batch_rows, n_rows)
            progress.update(done, loss=loss_sum / max(terms, 1))
            on_batch()
    packed.network.train()
    loss_sum, n_terms, *count_sums = run.ranks.sums([loss_sum, terms, *(counts[name] for name in objective.counts)])
    seconds = max(time.monotonic() - started, 1e-9)
    return {
        "eval_loss": loss_sum / n_terms,
        **{
            f"eval_{name}": value
            for name, value in objective.metrics(dict(zip(objective.counts, count_sums, strict=True))).items()
        },
        "eval_num_tokens": rows.tokens,
        "eval_runtime": seconds,
        "eval_samples_per_second": n_rows / seconds,
        "eval_steps_per_second": len(starts) / seconds,
    }


@dataclass
class _Sums:
    """What has added up over validation rows."""

    loss: float = 0.0
    terms: int = 0
    counts: Counter[str] = field(default_factory=Counter)


def _turn(
    run: Run, rows: Rows, own: range, packed: PackedNetwork, pass_rows: int, pass_tokens: int
) -> tuple[_Sums, int]:
    """Run the objective over this rank's rows of a turn, up to `pass_rows` and `pass_tokens` tokens in a pass.

    Return the sums, and the rows of a pass. Where memory runs out on any rank, all take their turn again with half as many.
    Raises `OutOfMemory` where one row is too long.
    """
    while True:
        sums, error = _Sums(), None
        try:
            passes = _passes(rows, own, pass_rows, pass_tokens)
            n_passes = run.ranks.most(len(passes)) if run.stepper.shards_weights else len(passes)
            for group in passes:
                _add(run, group, packed, sums)
            for _ in range(n_passes - len(passes)):
                run.loss(filler(run))  # the others' passes gather weights from this rank
        except Exception as raised:
            if not is_out_of_memory(raised) or run.stepper.shards_weights:  # the others wait for this one within a pass
                raise
            error = raised
        if not run.ranks.any(error is not None)[0]:
            return sums, pass_rows
        if pass_rows == 1:
            raise OutOfMemory(
                "Out of memory in a validation pass of one row. Lower max_seq_length, end other work, or set "
                "evaluation_strategy 'disable'."
            ) from error
        release(run.device, error)
        pass_rows = -(-pass_rows // 2)
        logger.info("Memory ran out: %d validation rows in a pass from here on", pass_rows)


def _passes(rows: Rows, own: range, pass_rows: int, pass_tokens: int) -> list[list[Row]]:
    """Return a batch's rows in forward passes of at most so many rows, and so many tokens, or a longer row."""
    own_rows = [rows.row(index) for index in own]
    parts = [own_rows[start : start + pass_rows] for start in range(0, len(own_rows), pass_rows)]
    return [group for part in parts for group in groups_of(part, pass_tokens)]


def _add(run: Run, rows: Sequence[Row], packed: PackedNetwork, sums: _Sums) -> None:
    batch = pack(rows)
    result = run.stepper.forward(partial(run.objective.loss, packed, batch))
    sums.loss += float(result.loss_sum)
    sums.terms += run.objective.terms(batch)
    sums.counts.update(result.counts)


def is_due(step: int, arguments: TrainingArguments, order: DataOrder) -> bool:
    """Return whether training is validated after `step` steps: every so often, and always after the last."""
    if step == order.total_steps:
        return True
    if arguments.evaluation_strategy == "epoch":
        return step % order.steps_per_epoch == 0
    share = arguments.evaluation_steps_interval
    interval = max(1, math.floor(order.steps_per_epoch * share)) if share > 0 else arguments.eval_steps
    return step % interval == 0


def is_validated(state: TrainingState) -> bool:
    """Return whether the validation after the state's step was done: a checkpoint may be older than it."""
    return any(entry["step"] == state.step and "eval_loss" in entry for entry in state.history)


def note_loss(state: TrainingState, loss: float, threshold: float) -> None:
    """Take a validation loss into the state: the best so far, and for how many evaluations it hasn't fallen enough."""
    has_gained = state.best_loss is None or loss < state.best_loss - threshold
    state.evaluations_without_gain = 0 if has_gained else state.evaluations_without_gain + 1
    if state.best_loss is None or loss < state.best_loss:
        state.best_loss, state.best_step = loss, state.step


def stops_early(state: TrainingState, arguments: TrainingArguments) -> bool:
    """Return whether early stopping ends training now."""
    return arguments.apply_early_stopping and state.evaluations_without_gain >= arguments.early_stopping_patience
