"""Fine-tuning: from a base and prepared rows to the best adapter or model, with checkpoints and history beside it."""

from mafunzo.compute.training.announcement import announce
from mafunzo.compute.training.history import History
from mafunzo.compute.training.output import write_output
from mafunzo.compute.training.resume import resume
from mafunzo.compute.training.run import TrainingRequest, assemble
from mafunzo.compute.training.trainer import Trainer
from mafunzo.compute.training.validation import make_validator


def finetune(request: TrainingRequest) -> dict[str, float]:
    """Train and write the output folder; returns the content of `all_results.json`."""
    run = assemble(request)
    announce(run)
    state = resume(run)
    request.output.mkdir(parents=True, exist_ok=True)
    history = History(run, state)
    Trainer(run, state, history, make_validator(run)).train()
    return write_output(run, state, history)
