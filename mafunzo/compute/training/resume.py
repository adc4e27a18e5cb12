"""Resuming: the checkpoints that a run writes while it trains, how many are kept, and which it resumes from."""

import logging
import shutil

from mafunzo.compute.training import checkpoint
from mafunzo.compute.training.run import Run
from mafunzo.compute.training.state import TrainingState, identity, trainer_state
from mafunzo.errors import InvalidParameter

logger = logging.getLogger(__name__)


def resume(run: Run) -> TrainingState:
    """Return the state of the newest whole checkpoint, put back into the run, or that of step 0.

    Raises `InvalidParameter` for a checkpoint of other parameters or rows.
    """
    request = run.request
    if not run.arguments.resume_from_checkpoint:
        return TrainingState()
    folder = checkpoint.newest_whole([request.output, *request.earlier])
    if folder is None:
        logger.info("There is no checkpoint to go on from: training starts at step 0.")
        return TrainingState()
    saved = checkpoint.load_checkpoint(folder, run.network, run.adapter is not None, run.optimizer, run.schedule)
    run.stepper.weights_were_loaded()
    if {key: saved["mafunzo"].get(key) for key in ("values", "rows")} != identity(run):
        raise InvalidParameter(
            f"{folder} was written with other parameters or rows. Set resume_from_checkpoint false, or use the same."
        )
    state = TrainingState(**saved["mafunzo"]["state"])
    _log_checkpoint(run, state, "load")
    for path in checkpoint.checkpoints(folder.parent):
        if path.parent != request.output:
            shutil.copytree(path, request.output / path.name, dirs_exist_ok=True)
    logger.info("Goes on from %s", folder.name)
    return state


def save_checkpoint(run: Run, state: TrainingState) -> None:
    """Write a checkpoint of now, and delete the oldest beyond `save_total_limit`, never the best."""
    output = run.request.output
    checkpoint.save_checkpoint(
        output, state.step, run.network, run.adapter, run.optimizer, run.schedule, trainer_state(run, state)
    )
    _log_checkpoint(run, state, "save")
    best = output / f"checkpoint-{state.best_step}" if state.best_step is not None else None
    checkpoint.prune(output, run.arguments.save_total_limit, best)


def _log_checkpoint(run: Run, state: TrainingState, what: str) -> None:
    """Log the step of a checkpoint as a metric; the history, which checkpoints contain, doesn't have them."""
    run.request.metrics.log(state.step, {f"checkpoint_{what}_step": state.step})
