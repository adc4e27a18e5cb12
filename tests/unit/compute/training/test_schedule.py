import pytest
import torch
from torch import nn
from transformers.optimization import (
    get_cosine_with_min_lr_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_wsd_schedule,
)

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.schedule import make_schedule, warmup
from mafunzo.errors import InvalidParameter


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        pytest.param("linear", [0, 0.5, 1, 0.5, 0], id="linear"),
        pytest.param("cosine", [0, 0.5, 1, 0.5, 0], id="cosine"),
        pytest.param("constant", [1, 1, 1, 1, 1], id="constant"),
        pytest.param("constant_with_warmup", [0, 0.5, 1, 1, 1], id="constant with warm-up"),
        pytest.param("polynomial", [0, 0.5, 1, 0.5, 0], id="polynomial"),
        pytest.param("cosine_with_restarts", [0, 0.5, 1, 0.5, 0], id="restarts"),
    ],
)
def test_each_schedule_has_its_shape(kind, rates):
    assert rates_of({"lr_scheduler_type": kind, "warmup_steps": 2, "learning_rate": 1.0}, 4) == pytest.approx(
        rates, abs=1e-6
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "num_decay_steps": 4,
                "lr_decay_type": "1-sqrt",
                "min_lr_rate": 0.1,
            },
            lambda optimizer: get_wsd_schedule(optimizer, 2, 4, 10, decay_type="1-sqrt", min_lr_ratio=0.1),
            id="stable until the decay",
        ),
        pytest.param(
            {"lr_scheduler_type": "wsd", "num_decay_steps": 8},
            lambda optimizer: get_wsd_schedule(optimizer, 2, 8, 10),
            id="nothing between warm-up and decay",
        ),
        pytest.param(
            {"lr_scheduler_type": "inverse_sqrt"}, lambda optimizer: get_inverse_sqrt_schedule(optimizer, 2), id="root"
        ),
        pytest.param(
            {"lr_scheduler_type": "inverse_sqrt", "lr_timescale": 5},
            lambda optimizer: get_inverse_sqrt_schedule(optimizer, 2, 5),
            id="slower root",
        ),
        pytest.param(
            {"lr_scheduler_type": "cosine_with_min_lr", "min_lr": 0.05},
            lambda optimizer: get_cosine_with_min_lr_schedule_with_warmup(optimizer, 2, 10, min_lr=0.05),
            id="to a learning rate",
        ),
        pytest.param(
            {"lr_scheduler_type": "cosine_with_min_lr", "min_lr_rate": 0.3},
            lambda optimizer: get_cosine_with_min_lr_schedule_with_warmup(optimizer, 2, 10, min_lr_rate=0.3),
            id="to a share",
        ),
    ],
)
def test_a_schedule_with_arguments_of_its_own_is_transformers_(values, expected):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.5)
    rates = rates_of(values | {"warmup_steps": 2, "learning_rate": 0.5}, 10)
    assert rates == pytest.approx(followed(optimizer, expected(optimizer), 10))
    assert max(rates) == 0.5 and rates[0] < rates[1] < rates[2] > rates[-1]


def test_a_decay_that_is_longer_than_training_is_refused():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    values = {"lr_scheduler_type": "wsd", "num_decay_steps": 8, "warmup_ratio": 0.3}
    with pytest.raises(
        InvalidParameter, match="warm-up has 3 steps and num_decay_steps is 8, more together than the 10"
    ):
        make_schedule(optimizer, TrainingArguments.from_values(values), 10)


def rates_of(values, total_steps):
    arguments = TrainingArguments.from_values(values)
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=arguments.learning_rate)
    return followed(optimizer, make_schedule(optimizer, arguments, total_steps), total_steps)


def followed(optimizer, schedule, total_steps):
    """The learning rate before the first step, and after each."""
    rates = []
    for _ in range(total_steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("values", "steps"),
    [({}, 0), ({"warmup_steps": 7}, 7), ({"warmup_ratio": 0.1}, 3), ({"warmup_ratio": 0.11}, 4)],
)
def test_the_warm_up_is_steps_or_a_share(values, steps):
    assert warmup(TrainingArguments.from_values(values), 30) == steps
