"""The probe of a run: a few real optimizer steps, an evaluation and a checkpoint, each measured; the weights are thrown away.

    heaviest pass, twice       what the run takes at its peak: gradients and optimizer states are there, and a pass more
    passes drawn by chance     what a token takes, each with an optimizer step after it, until the probe's time is over
    heaviest validation batch  its memory, too
    a few validation batches   what a validation token takes
    a checkpoint               what saving takes, and how large it is

A pass is measured as the run makes it: rows packed, forward, backward. Drawing from all steps makes the mean that of the run.
Processes that train together take the probe together: in each turn a pass each, of the same step, as far as its rows go.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from mafunzo.compute.device.memory import peak_bytes
from mafunzo.compute.training.batch import Row, Rows, Sequences, pack
from mafunzo.compute.training.data_order import passes
from mafunzo.compute.training.lockstep import filler, rows_alone
from mafunzo.compute.training.memory_plan import is_saved_within
from mafunzo.compute.training.ranks import all_of
from mafunzo.compute.training.run import Run
from mafunzo.compute.training.saving import Saver
from mafunzo.compute.training.state import TrainingState
from mafunzo.compute.training.timing import Costs
from mafunzo.compute.training.validation import make_validator

SAMPLED_STEPS = 64
"""Of how many optimizer steps, evenly over the run, passes are drawn."""
MOST_PASSES, FEWEST_PASSES = 32, 4
"""How many passes are measured: as many as there is time for, between these."""
BUDGET_S = 20.0
"""How long passes are measured, once there are enough of them."""
VALIDATION_BATCHES = 4


@dataclass(frozen=True)
class Probe:
    """What was measured. spread: the standard error of a token's time, as a share of it; 0 where one pass is all there is.

    peak_bytes: the most memory that the process held, of several the one with the most; total_peak_bytes: of all together.
    checkpoint_bytes: the size of a checkpoint, known on the first rank.
    """

    costs: Costs
    spread: float
    passes: int
    peak_bytes: int
    total_peak_bytes: int
    checkpoint_bytes: int


def probe(run: Run, forward_tokens: int, budget_s: float = BUDGET_S) -> Probe:
    """Measure a run, whose weights and output folder are of no use afterwards; all ranks do this together.

    forward_tokens: the plan's, of a pass.
    """
    drawn = _drawn_passes(run, forward_tokens)
    heaviest = _heaviest_pass(run, forward_tokens, drawn)
    run.network.train()
    _take_step(run, [drawn[0]])  # makes the optimizer's states
    is_accumulated = run.order.accumulation > 1
    _take_step(run, [heaviest] * (2 if is_accumulated or len(drawn) > 1 else 1))
    passes_s, steps_s, tokens = _measure_passes(run, drawn, budget_s)
    validation_token_s = _measure_validation(run, forward_tokens)
    save_s, checkpoint_bytes = _measure_save(run)
    peak = peak_bytes(run.device)
    per_token = [taken / count for taken, count in zip(passes_s, tokens, strict=True)]
    spread = stdev(per_token) / fmean(per_token) / len(per_token) ** 0.5 if len(per_token) > 1 else 0.0
    return Probe(
        costs=Costs(sum(passes_s) / sum(tokens), fmean(steps_s), validation_token_s, save_s),
        spread=spread,
        passes=len(passes_s),
        peak_bytes=run.ranks.most(peak),
        total_peak_bytes=int(run.ranks.sums([peak])[0]),
        checkpoint_bytes=checkpoint_bytes,
    )


def _drawn_passes(run: Run, forward_tokens: int) -> list[list[Row]]:
    """Return this rank's passes of steps all over the run, in an order that the seed decides.

    Of a step each rank has as many, some without rows, so that all have their passes of a step in the same turns.
    """
    total = run.order.total_steps
    steps = np.unique(np.linspace(0, total - 1, min(total, SAMPLED_STEPS)).astype(int))
    drawn: list[list[Row]] = []
    for step in map(int, steps):
        of_each = [passes(run.rows, run.order, step, forward_tokens, one) for one in all_of(run.ranks)]
        own, most = of_each[run.ranks.rank], max(map(len, of_each))
        drawn += own + [list[Row]()] * (most - len(own))
    random.Random(run.order.seed).shuffle(drawn)
    return drawn


def _heaviest_pass(run: Run, forward_tokens: int, drawn: Sequence[list[Row]]) -> list[Row]:
    """Return the pass with the most tokens of those drawn, or that of the longest row, which may be longer than a pass."""
    longest = int(np.argmax(np.add.reduce([np.diff(column.bounds) for column in run.rows.sequences])))
    return max([*drawn, [run.rows.row(longest)]], key=_tokens)


def _tokens(rows: Sequence[Row]) -> int:
    return sum(len(ids) for row in rows for ids, _ in row)


def _measure_passes(
    run: Run, drawn: Sequence[list[Row]], budget_s: float
) -> tuple[list[float], list[float], list[int]]:
    """Return the seconds of passes, those of the optimizer step after each, and the tokens of each pass."""
    passes_s, steps_s, tokens = list[float](), list[float](), list[int]()
    begun = time.monotonic()
    for number, rows in enumerate(_endlessly(drawn)):
        is_over = number >= FEWEST_PASSES and time.monotonic() - begun > budget_s
        if number >= MOST_PASSES or run.ranks.any(is_over)[0]:
            break
        pass_s, step_s, n_tokens = _take_step(run, [rows])
        passes_s.append(pass_s)
        steps_s.append(step_s)
        tokens.append(n_tokens)
    return passes_s, steps_s, tokens


def _endlessly(drawn: Sequence[list[Row]]) -> Iterator[list[Row]]:
    while True:
        yield from drawn


def _take_step(run: Run, step_passes: Sequence[list[Row]]) -> tuple[float, float, int]:
    """Take an optimizer step over passes; return the seconds of the passes, those of the step, and the tokens.

    Of several ranks the mean of their seconds, as they share a step's tokens alike, and the tokens of all.
    """
    begun, n_tokens = time.monotonic(), 0
    for index, rows in enumerate(step_passes):
        n_tokens += _run_pass(run, rows, is_last=index == len(step_passes) - 1)
    pass_s = time.monotonic() - begun
    run.ranks.wait()
    begun = time.monotonic()
    run.stepper.step()
    _wait(run)
    *means, tokens = run.ranks.sums([pass_s, time.monotonic() - begun, n_tokens])
    pass_s, step_s = (total / run.ranks.size for total in means)
    return pass_s, step_s, int(tokens)


def _run_pass(run: Run, rows: list[Row], is_last: bool) -> int:
    """Make a pass and return its tokens; without rows none, but for the filler that the others' passes wait for."""
    if not rows and not run.stepper.in_lockstep:
        return 0
    batch = pack(rows) if rows else filler(run)
    with run.autocast():
        result = run.loss(batch)
    if result.loss_sum.requires_grad:
        weight = 1 / max(run.objective.terms(batch), 1) if rows else 0.0
        run.stepper.backward(result.loss_sum * weight, is_last=is_last)
    float(result.loss_sum.detach())  # a GPU has ended then
    _wait(run)
    return batch.n_tokens if rows else 0


def _measure_validation(run: Run, forward_tokens: int) -> float:
    """Return the seconds of a validation token, 0 where there is no validation."""
    rows, batch = run.validation_rows, 1 if rows_alone(run) else run.arguments.per_device_eval_batch_size
    if rows is None:
        return 0.0
    starts = range(0, len(rows), batch)
    heaviest = max(starts, key=lambda start: _slice(rows, start, start + batch).tokens)
    _validate(run, _slice(rows, heaviest, heaviest + batch), forward_tokens)
    sample = _slice(rows, 0, VALIDATION_BATCHES * batch * run.ranks.size)
    return _validate(run, sample, forward_tokens) / sample.tokens


def _validate(run: Run, rows: Rows, forward_tokens: int) -> float:
    validator = make_validator(replace(run, validation_rows=rows), lambda: forward_tokens)
    assert validator is not None
    begun = time.monotonic()
    validator(run.packed)
    return time.monotonic() - begun


def _slice(rows: Rows, start: int, stop: int) -> Rows:
    """Return rows as if there were no others."""
    return Rows(tuple(_slice_of(column, start, stop) for column in rows.sequences))


def _slice_of(column: Sequences, start: int, stop: int) -> Sequences:
    bounds = column.bounds[start : stop + 1]
    low, high = int(bounds[0]), int(bounds[-1])
    return Sequences(column.ids[low:high], column.labels[low:high], bounds - low)


def _measure_save(run: Run) -> tuple[float, int]:
    """Return the seconds that a checkpoint takes, and its bytes on the disk where this rank writes it.

    It is copied first where one of the run's would be.
    """
    run.request.output.mkdir(parents=True, exist_ok=True)
    saver = Saver(run, TrainingState(step=0 if is_saved_within(run) else run.order.total_steps))
    with saver.at_sigterm():  # nothing is being written any more when this ends
        begun = time.monotonic()
        saver.save()
        taken_s = time.monotonic() - begun
    return taken_s, folder_bytes(run.request.output)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        import torch

        torch.cuda.synchronize()
