"""When checkpoints are saved beside those of validations, so that little is lost: by the clock, and at SIGTERM.

    step n: forward | forward | ... optimizer step   validation                       step n + 1: ...
                    ^ a signal is looked for         ^ and here, as is the clock ^

A step that a signal breaks off is taken again by the run that goes on. The random state is put back to the step's start, so
that it goes the same way.

Checkpoints are written beside training (snapshot.py): the loop waits while the run is copied in memory, and for the write
before, if that hasn't ended. Where memory has no room for the copy, it waits for the write too, and where nothing is left to
train meanwhile, there is no copy. Whoever ends training waits for all.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from mafunzo.compute.device.memory import free_bytes, release, used_bytes
from mafunzo.compute.device.out_of_memory import is_out_of_memory
from mafunzo.compute.training import checkpoint
from mafunzo.compute.training.background import BackgroundWriter
from mafunzo.compute.training.circumstance import circumstances
from mafunzo.compute.training.divergence import whole_blocks
from mafunzo.compute.training.memory_plan import SHARE
from mafunzo.compute.training.ranks import peers_told
from mafunzo.compute.training.run import Run
from mafunzo.compute.training.snapshot import Gathered, Snapshot, random_states, take_snapshot
from mafunzo.compute.training.state import TrainingState, log_checkpoint, trainer_state
from mafunzo.compute.training.validation import is_due
from mafunzo.errors import PeerLost
from mafunzo.tracking.step_folder import TERMINATED
from mafunzo.tracking.termination import at_sigterm

logger = logging.getLogger(__name__)


class Saver:
    """Saves a run's checkpoints: when it is told to, after each interval of `save_interval_s`, and before a stop."""

    def __init__(self, run: Run, state: TrainingState, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._state, self._clock = run, state, clock
        self._saved_at_s = self._looked_at_s = clock()
        self._saved = self._version
        self._writer = BackgroundWriter()
        self.is_stopping = False

    def save(self) -> None:
        """Begin to save a checkpoint of now, and to delete the oldest beyond `save_total_limit`, never the best nor the newest.

        Waits for the one before it. Raises what went wrong with that, and `StorageFull` where the disk has no room. All ranks
        do this together; the first one writes.
        """
        random, gathered = random_states(self._run.ranks), self._run.stepper.gathered()
        if self._run.ranks.is_first:
            self._save(random, gathered)
        self._saved, self._saved_at_s = self._version, self._clock()

    def _save(self, random: Mapping[str, Tensor], gathered: Gathered | None) -> None:
        self._writer.wait()
        run, state = self._run, self._state
        _note_lowest(state)
        snapshot = take_snapshot(
            state.step,
            run.network,
            run.adapter,
            run.optimizer,
            run.schedule,
            trainer_state(run, state),
            random,
            circumstances(run, state.tightness),
            gathered,
        )
        checkpoint.require_space(run.request.output, snapshot)
        write = partial(self._write, best_step=kept_step(state))
        is_last = self.is_stopping or state.step >= run.order.total_steps
        copy = None if is_last else _copied(run, snapshot)
        if copy is not None:
            self._writer.start(partial(write, copy))
        elif is_last:
            write(snapshot)
        else:
            logger.info(
                "Training waits while checkpoint-%d is written: memory has no room for a copy of %.1f GB",
                state.step,
                snapshot.n_bytes / 1e9,
            )
            write(snapshot)

    def _write(self, snapshot: Snapshot, best_step: int | None) -> None:
        run, output = self._run, self._run.request.output
        checkpoint.save_checkpoint(output, snapshot)
        log_checkpoint(run, snapshot.step, "save")
        best = output / f"checkpoint-{best_step}" if best_step is not None else None
        checkpoint.prune(output, run.arguments.save_total_limit, best, lambda path: not self._is_lasting(path))

    def wait(self) -> None:
        """Wait until what is being saved is on the disk; raises what went wrong."""
        self._writer.wait()

    def save_if_due(self) -> None:
        """Save where the interval would be over before this is called again; stop here where a signal asks for it.

        Raises what went wrong with a checkpoint that was being written.
        """
        self._writer.check()
        now_s = self._clock()
        pace_s, self._looked_at_s = now_s - self._looked_at_s, now_s
        is_over = now_s + pace_s - self._saved_at_s >= self._run.arguments.save_interval_s
        is_stopping, is_due = self._run.ranks.any(self.is_stopping, is_over)
        if is_stopping:
            self.stop()
        if is_due and not self.is_saved:
            self.save()

    @property
    def is_saved(self) -> bool:
        """Whether the newest checkpoint, which may still be being written, is of now."""
        return self._saved == self._version

    def stop(self) -> NoReturn:
        """Save what isn't saved, and end the process as SIGTERM would have, once all ranks are here."""
        if not self.is_saved:
            self.save()
        self.wait()
        self._run.ranks.wait()
        logger.info("SIGTERM: training stops after step %d, and can go on from there", self._state.step)
        sys.exit(TERMINATED)

    @contextmanager
    def at_sigterm(self) -> Iterator[None]:
        """Have SIGTERM ask for a stop while this lasts, instead of ending the process at once; wait for what is being saved."""
        try:
            with at_sigterm(self._note), closing(self._writer), peers_told():
                yield
        except PeerLost:
            if self.is_stopping:  # another rank has failed, and the signal was to end this one for that
                sys.exit(TERMINATED)
            raise

    def _note(self) -> None:
        self.is_stopping = True

    @property
    def _version(self) -> tuple[int, int]:
        """What tells one state of the run from the next: its step, and what was measured after it."""
        return self._state.step, len(self._state.history)

    def _is_lasting(self, folder: Path) -> bool:
        """Return whether a checkpoint is of the last step, or of one after which training is validated."""
        run, step = self._run, checkpoint.step_of(folder)
        is_validated = run.validation_rows is not None and is_due(step, run.arguments, run.order)
        return is_validated or step == run.order.total_steps


def kept_step(state: TrainingState) -> int | None:
    """Return the step of the best checkpoint: by the validation loss, or without one by the training loss."""
    if state.best_step is not None or state.lowest_saved is None:
        return state.best_step
    return state.lowest_saved[0]


def _note_lowest(state: TrainingState) -> None:
    """Remember the checkpoint that is being saved, if the training loss was never lower at one."""
    blocks = whole_blocks(state)
    if blocks and (state.lowest_saved is None or blocks[-1].mean <= state.lowest_saved[1]):
        state.lowest_saved = (state.step, blocks[-1].mean)


def _copied(run: Run, snapshot: Snapshot) -> Snapshot | None:
    """Return a copy that can be written while training goes on; None where memory has no room for it."""
    if not has_room(run, snapshot.n_bytes):
        return None
    try:
        return snapshot.copied()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release(torch.device("cpu"), error)
        return None


def has_room(run: Run, n_bytes: int) -> bool:
    """Return whether so much may be copied into the main memory: within what is planned with, and `max_memory_gb` there."""
    cpu = torch.device("cpu")
    limit = run.arguments.max_memory_gb * 1e9 if run.device.type == "cpu" else 0
    if limit and used_bytes(cpu) + n_bytes > limit:
        return False
    return n_bytes <= SHARE * free_bytes(cpu)
