"""The training loop: forward and backward passes, optimizer steps, validation and checkpoints, until all steps are done.

step n:   batch | batch | batch        this rank's forward passes, as many as gradient accumulation has (data_order.py)
          loss  + loss  + loss         each divided by the terms of the whole step, gradients added up
          the same outcome known to all ranks (ranks.py), clip, optimizer step, learning-rate schedule
          log?  validate and save a checkpoint?  stop early?  save one because time is over, or to stop? (saving.py)
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mafunzo.compute.device.memory import release
from mafunzo.compute.device.out_of_memory import is_out_of_memory
from mafunzo.compute.training.announcement import announce, duration_text, rough_costs
from mafunzo.compute.training.batch import Batch
from mafunzo.compute.training.data_order import load_steps
from mafunzo.compute.training.divergence import diverges, note, whole_blocks
from mafunzo.compute.training.lockstep import passes_of, rows_alone
from mafunzo.compute.training.memory_plan import plan_memory
from mafunzo.compute.training.output import write_output
from mafunzo.compute.training.ranks import joined
from mafunzo.compute.training.recomputation import recomputable_layers, recomputed_layers
from mafunzo.compute.training.run import Run, TrainingRequest, assemble
from mafunzo.compute.training.saving import Saver
from mafunzo.compute.training.snapshot import random_state, restore_random_state
from mafunzo.compute.training.state import History, TrainingState, require_free, resume_together
from mafunzo.compute.training.tightening import tighten, use
from mafunzo.compute.training.timing import Pace
from mafunzo.compute.training.validation import (
    Validator,
    is_due,
    is_validated,
    make_validator,
    note_loss,
    stops_early,
)
from mafunzo.errors import FailedError, OutOfMemory
from mafunzo.tracking.metrics import MetricLog
from mafunzo.tracking.progress import Progress

logger = logging.getLogger(__name__)


def finetune(request: TrainingRequest) -> dict[str, float]:
    """Train and write the output folder; returns the content of `all_results.json`, nothing but on the first of several ranks.

    SIGTERM saves a checkpoint and ends the process.
    """
    require_free(request)
    with joined() as ranks:
        run = assemble(request if ranks.is_first else replace(request, metrics=MetricLog(None)), ranks)
        announce(run)
        request.output.mkdir(parents=True, exist_ok=True)
        state = resume_together(run)
        plan = plan_memory(run)
        logger.info("Memory: %s", plan)
        tightness = replace(plan.tightness, forward_tokens=1) if rows_alone(run) else plan.tightness
        state.use_plan(tightness)
        use(run, state.tightness)
        history = History(run, state)
        saver = Saver(run, state)
        with saver.at_sigterm():
            Trainer(
                run, state, history, make_validator(run, lambda: state.forward_tokens, saver.save_if_due), saver
            ).train()
        run.stepper.make_whole()
        return write_output(run, state, history, plan) if ranks.is_first else {}


class Trainer:
    """Trains from the run's state to its last step; the state is the caller's, and changed in place."""

    def __init__(
        self,
        run: Run,
        state: TrainingState,
        history: History,
        validator: Validator | None,
        saver: Saver | None = None,
    ) -> None:
        self._run, self._state, self._history, self._validator = run, state, history, validator
        self._saver = saver or Saver(run, state)
        self._pace = Pace(run, rough_costs(run))
        self._pass: Batch | None = None

    def train(self) -> None:
        """Take all steps, validating and saving checkpoints on the way."""
        run, state, total_steps = self._run, self._state, self._run.order.total_steps
        n_threads = run.arguments.dataloader_num_workers
        progress = Progress("train", total_steps)
        run.network.train()
        started = time.monotonic() - state.seconds
        tokens_before, resumed_at = state.tokens, time.monotonic()
        is_stopped = self._has_stopped_early()
        while state.step < total_steps and not is_stopped:  # goes round again when memory ran out: with smaller passes
            for batches in load_steps(run.rows, run.order, state.step, state.forward_tokens, n_threads, run.ranks):
                begun, tokens_so_far = time.monotonic(), state.tokens
                loss = self.step(batches)
                if loss is None:
                    break
                self._pace.add_step(state.tokens - tokens_so_far, time.monotonic() - begun)
                state.seconds = time.monotonic() - started
                tokens_per_s = (state.tokens - tokens_before) / max(time.monotonic() - resumed_at, 1e-9)
                remaining_s = self._pace.remaining_s(state.step, state.tokens)
                progress.update(state.step, remaining_s, loss=loss, tokens_per_s=tokens_per_s)
                if state.step == estimated_after(total_steps):
                    self._note_estimate(state.seconds + remaining_s)
                self._history.write_if_due()
                if self._validator is not None and is_due(state.step, run.arguments, run.order):
                    is_stopped = self._validate(self._validator)
                if is_stopped:
                    break
                self._saver.save_if_due()
        state.seconds = time.monotonic() - started
        if self._validator is None and not self._saver.is_saved:
            self._saver.save()
        self._saver.wait()

    def _note_estimate(self, total_s: float) -> None:
        """Say and record how long the run takes by its first steps, beside which the end records how long it took."""
        logger.info("Estimate: about %s in all, by the steps so far", duration_text(total_s))
        self._run.request.metrics.log(self._state.step, {"estimated_train_runtime": total_s})

    def _has_stopped_early(self) -> bool:
        """Return whether a run that goes on had stopped early before; validates first what was saved before its validation."""
        state, arguments, order = self._state, self._run.arguments, self._run.order
        if self._validator is None or state.step == 0:
            return False
        if is_due(state.step, arguments, order) and not is_validated(state):
            return self._validate(self._validator)
        return stops_early(state, arguments)

    def step(self, batches: Sequence[Batch]) -> float | None:
        """Take one optimizer step and return its loss; None if memory ran out and passes were made to take less instead.

        A step during which a signal comes is given up, and the process ends.
        """
        run, state = self._run, self._state
        random_before = random_state()
        error: Exception | None = None
        loss: float | None = 0.0
        counts = Counter[str]()
        try:
            loss, counts = self._accumulate(batches)
        except Exception as raised:
            if not is_out_of_memory(raised) or run.stepper.in_lockstep:  # the others wait for this one within a pass
                raise
            error = raised
        n_tokens = sum(batch.n_tokens for batch in batches)
        own_sums = [float(error is not None), float(loss is None), loss or 0.0, n_tokens]
        has_no_memory, is_stopping, step_loss, n_tokens_of_all, *sums = run.ranks.sums(
            [*own_sums, *(counts[name] for name in run.objective.counts)]
        )
        if is_stopping:
            run.stepper.clear()
            restore_random_state(random_before)
            self._saver.stop()
        if has_no_memory:
            run.stepper.clear()
            restore_random_state(random_before)
            self._tighten(error)
            return None
        learning_rate = float(run.schedule.get_last_lr()[0])
        grad_norm = self._take_step() if math.isfinite(step_loss) else math.nan
        self._check_finite(step_loss, grad_norm, learning_rate)
        run.schedule.step()
        state.step += 1
        state.tokens += int(n_tokens_of_all)
        state.loss_sum += step_loss
        if note(state, step_loss, run.order.total_steps):
            self._look_for_divergence()
        self._history.add(step_loss, dict(zip(run.objective.counts, sums, strict=True)), grad_norm, learning_rate)
        return step_loss

    def _accumulate(self, batches: Sequence[Batch]) -> tuple[float | None, Counter[str]]:
        """Run all forward and backward passes of a step (gradient accumulation); return the mean loss and the counts.

        Of several ranks, each has its passes' share of the mean. The loss is None where training is to stop, and passes were
        left out.
        """
        run = self._run
        terms = [run.objective.terms(batch) for batch in batches]
        n_terms = max(int(run.ranks.sums([sum(terms)])[0]), 1)
        loss_sum, counts = 0.0, Counter[str]()
        for one in passes_of(run, batches, terms):
            self._pass = one.batch
            with run.autocast():
                result = run.loss(one.batch)
            if self._saver.is_stopping and not run.stepper.in_lockstep:
                return None, counts
            if result.loss_sum.requires_grad:  # a batch without a term has none
                run.stepper.backward(
                    result.loss_sum / n_terms if one.is_own else result.loss_sum * 0, is_last=one.is_last
                )
            if one.is_own:
                loss_sum += float(result.loss_sum.detach())
                counts.update(result.counts)
            del (
                result
            )  # small as it is, what lives through the next pass keeps the C library from reusing this one's memory
        return loss_sum / n_terms, counts

    def _take_step(self) -> float:
        """Take the optimizer's step and return the gradient's norm; raises `OutOfMemory`, as its state is made at the first."""
        try:
            return self._run.stepper.step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                "Out of memory while the optimizer took a step: its state has two numbers for each trained weight. Set "
                "apply_lora true, lower lora_r, or set optim adafactor."
            ) from error

    def _tighten(self, error: Exception | None) -> None:
        """Make passes on all ranks take less; the step's rows stay (data_order.py), so its gradient does too.

        error: why, on a rank whose memory ran out. Raises `OutOfMemory` where nothing is left to give up.
        """
        run, state, batch = self._run, self._state, self._pass
        has_failed = error is not None and batch is not None
        longest = run.ranks.most(len(batch.ids_T) if batch is not None and has_failed else 0)
        is_shared = batch is not None and has_failed and len(batch.bounds) - 1 > len(run.rows.sequences)
        shared_tokens = run.ranks.most(batch.n_tokens if batch is not None and is_shared else 0)
        layers = recomputable_layers(run.network)
        before = replace(state.tightness, recomputed_layers=recomputed_layers(run.network))
        after = None if run.arguments.apply_deepspeed else tighten(before, shared_tokens, layers)
        if after is None:
            raise OutOfMemory(_no_room(longest, run.arguments.apply_deepspeed, layers)) from error
        self._pass = None
        release(run.device, error)
        use(run, after, keeps_attention=after.forward_tokens != before.forward_tokens)
        state.tightness = after
        what = after.beside(before)
        state.tightened.append(f"after step {state.step}: {what}")
        if (after.forward_tokens, after.head_chunk) != (before.forward_tokens, before.head_chunk):
            state.note(f"memory ran out after step {state.step}, and passes were made smaller")
        logger.info("Memory ran out: %s from here on, the effective batch as before", what)

    def _look_for_divergence(self) -> None:
        """Say that the loss rises for long, once while it does; training goes on, and the best checkpoint is kept."""
        run, state = self._run, self._state
        blocks = whole_blocks(state)
        is_diverging = diverges(blocks, state.best_step)
        if is_diverging == (state.diverged_at is not None):
            return
        state.diverged_at = state.step if is_diverging else None
        run.request.metrics.log(state.step, {"diverges": float(is_diverging)})
        if not is_diverging:
            logger.info("The training loss falls again, to %.3f after step %d", blocks[-1].mean, state.step)
            return
        lowest = min(blocks, key=lambda block: block.mean)
        logger.warning(
            "The training loss rises: %.3f after step %d, from %.3f after step %d. It may have diverged: stop the job, and "
            "lower learning_rate or add a warm-up. The best checkpoint is kept.",
            blocks[-1].mean,
            state.step,
            lowest.mean,
            lowest.last_step,
        )

    def _check_finite(self, loss: float, grad_norm: float, learning_rate: float) -> None:
        """Raise `FailedError` for a step that gave no number. A loss scaler leaves out steps whose gradient overflowed."""
        if math.isfinite(loss) and (math.isfinite(grad_norm) or self._run.precision.needs_scaler):
            return
        what = f"The loss is {loss}" if not math.isfinite(loss) else f"The gradient's norm is {grad_norm}"
        advice = "lower learning_rate, add a warm-up, or use precision 32"
        if self._state.step == 0:
            advice = "nothing was trained yet, so it is the base model's own: check its weights, or use precision 32"
        raise FailedError(
            f"{what} at step {self._state.step + 1} of {self._run.order.total_steps} (learning rate {learning_rate:g}). "
            f"Training can't go on from there: {advice}."
        )

    def _validate(self, validator: Validator) -> bool:
        """Validate, save a checkpoint, and return whether training ends early."""
        run, state = self._run, self._state
        with self._pace.evaluation():
            numbers = validator(run.packed)
        self._history.write(numbers)
        note_loss(state, numbers["eval_loss"], run.arguments.early_stopping_threshold)
        with self._pace.save():
            self._saver.save()
        if not stops_early(state, run.arguments):
            return False
        logger.info("Stops early: the validation loss didn't fall for %d evaluations", state.evaluations_without_gain)
        return True


def _no_room(tokens: int, has_deepspeed: bool, layers: int) -> str:
    """Return what to do where memory ran out in a pass of so many tokens and nothing is left to give up."""
    where = f"Out of memory in a forward or backward pass of {tokens:,} tokens"
    if has_deepspeed:
        return (
            f"{where}. DeepSpeed can't take a step again: set apply_deepspeed false, lower max_memory_gb, so that passes "
            "are planned smaller, or lower max_seq_length."
        )
    what = "of one row, all layers computed again" if layers else "of one row; this network can't compute layers again"
    return f"{where}, {what}. Lower max_seq_length, set apply_lora true, lower lora_r, end other work, or take a smaller model."


def estimated_after(total_steps: int) -> int:
    """Return after how many steps a run is estimated by them: 3, as the first is slower, or half of a short run."""
    return min(3, max(1, total_steps // 2))
