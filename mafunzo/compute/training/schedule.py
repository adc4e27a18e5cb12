"""The learning-rate schedule: the warm-up, and the decay after it."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.errors import InvalidParameter


def make_schedule(optimizer: Optimizer, arguments: TrainingArguments, total_steps: int) -> LRScheduler:
    """Return the schedule of the learning rate over `total_steps` optimizer steps."""
    schedule: LRScheduler = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=warmup(arguments, total_steps),
        num_training_steps=total_steps,
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
