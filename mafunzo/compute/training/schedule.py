"""The learning-rate schedule: the warm-up, and the decay after it."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.entities.parameters.constraint import WSD
from mafunzo.errors import InvalidParameter


def make_schedule(optimizer: Optimizer, arguments: TrainingArguments, total_steps: int) -> LRScheduler:
    """Return the schedule of the learning rate over `total_steps` optimizer steps.

    Raises `InvalidParameter` where warm-up and decay have more steps together.
    """
    kind = arguments.lr_scheduler_type
    warmup_steps = warmup(arguments, total_steps)
    _require_room(arguments, warmup_steps, total_steps)
    schedule: LRScheduler = get_scheduler(
        WSD[0] if kind in WSD else kind,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=total_steps,
        scheduler_specific_kwargs=_specific(arguments),
    )
    return schedule


def warmup(arguments: TrainingArguments, total_steps: int) -> int:
    """Return the steps of the warm-up: as given, or a share of all, rounded up."""
    if arguments.warmup_steps > 0:
        return arguments.warmup_steps
    return math.ceil(round(arguments.warmup_ratio * total_steps, 6))


def require_a_rate(schedule: LRScheduler, total_steps: int) -> None:
    """Raise `InvalidParameter` where the learning rate is 0 at each of the steps, so that nothing would be trained."""
    assert isinstance(schedule, LambdaLR), "each schedule is a factor of the step"
    if not any(factor(step) > 0 for factor in schedule.lr_lambdas for step in range(total_steps)):
        raise InvalidParameter(
            f"The learning rate is 0 at each of the {total_steps} steps, and nothing would be trained: the warm-up starts at 0 "
            "and takes them all. Lower warmup_steps or warmup_ratio, or train for more steps."
        )


def _require_room(arguments: TrainingArguments, warmup_steps: int, total_steps: int) -> None:
    decay_steps = arguments.num_decay_steps or 0
    if decay_steps and warmup_steps + decay_steps > total_steps:
        raise InvalidParameter(
            f"The warm-up has {warmup_steps} steps and num_decay_steps is {decay_steps}, more together than the {total_steps} "
            "steps of training. Lower one of them, or train for longer."
        )


def _specific(arguments: TrainingArguments) -> dict[str, Any]:
    """Return what `get_scheduler` hands to the schedule's own function."""
    rate = arguments.min_lr_rate
    if arguments.lr_scheduler_type in WSD:
        return {
            "num_decay_steps": arguments.num_decay_steps,
            "decay_type": arguments.lr_decay_type,
            "min_lr_ratio": rate or 0.0,
        }
    if arguments.lr_scheduler_type == "cosine_with_min_lr":
        return {"min_lr_rate": arguments.min_lr / arguments.learning_rate if arguments.min_lr is not None else rate}
    return {"timescale": arguments.lr_timescale} if arguments.lr_scheduler_type == "inverse_sqrt" else {}
