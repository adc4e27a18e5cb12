"""The training state, in one place: what the loop changes, and the formats in which it is saved."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from mafunzo.compute.training.run import Run

# Arguments that may differ when a checkpoint is resumed from: they change no result.
_FREE = frozenset({"resume_from_checkpoint", "dataloader_num_workers", "save_total_limit", "auto_find_batch_size"})


@dataclass
class TrainingState:
    """Losses are nats per term (assistant token), summed over steps; tokens are those gone through.

    since_log: what has added up since numbers were last logged. Checkpoints hold all of it under these names.
    """

    step: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    since_log: dict[str, float] = field(default_factory=dict)
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def identity(run: Run) -> dict[str, Any]:
    """Return what must be the same for a run to resume from a checkpoint."""
    values = {name: value for name, value in run.arguments.to_values().items() if name not in _FREE}
    return {"values": values, "rows": [len(run.rows), run.rows.tokens, run.rows.trained_tokens]}


def total_flos(run: Run, state: TrainingState) -> float:
    """Return the floating point operations so far, by Hugging Face's rule: 6 per token and weight outside the embedding."""
    return 6.0 * state.tokens * int(run.network.num_parameters(exclude_embeddings=True))


def trainer_state(run: Run, state: TrainingState) -> dict[str, Any]:
    """Return the state in the shape of Hugging Face's `trainer_state.json`, with our own under `mafunzo`."""
    order, arguments = run.order, run.arguments
    return {
        "best_global_step": state.best_step,
        "best_metric": state.best_loss,
        "best_model_checkpoint": None if state.best_step is None else f"checkpoint-{state.best_step}",
        "epoch": order.epoch_after(state.step),
        "eval_steps": arguments.eval_steps,
        "global_step": state.step,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": state.history,
        "logging_steps": arguments.logging_steps,
        "max_steps": order.total_steps,
        "num_input_tokens_seen": state.tokens,
        "num_train_epochs": math.ceil(order.epoch_after(order.total_steps)),
        "save_steps": arguments.eval_steps,
        "total_flos": total_flos(run, state),
        "train_batch_size": order.batch,
        "trial_name": None,
        "trial_params": None,
        "mafunzo": {**identity(run), "state": {**asdict(state), "history": list(state.history)}},
    }
