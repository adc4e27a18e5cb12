"""The learning-rate schedule: the warm-up, and the decay after it."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from mafunzo.compute.training.arguments import TrainingArguments


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
