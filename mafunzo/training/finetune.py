"""Fine-tuning: from a base and prepared rows to the best adapter or model, with checkpoints and history beside it."""

from mafunzo.training.announcement import announce
from mafunzo.training.history import History
from mafunzo.training.output import write_output
from mafunzo.training.resume import resume
from mafunzo.training.run import TrainingRequest, assemble
from mafunzo.training.trainer import Trainer
from mafunzo.training.validation import make_validator


def finetune(request: TrainingRequest) -> dict[str, float]:
    """Train and write the output folder; returns what `all_results.json` holds."""
    run = assemble(request)
    announce(run)
    state = resume(run)
    request.output.mkdir(parents=True, exist_ok=True)
    history = History(run, state)
    Trainer(run, state, history, make_validator(run)).train()
    return write_output(run, state, history)
