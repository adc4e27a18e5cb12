import pytest
import torch
from torch import nn

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.schedule import make_schedule, warmup


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
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    arguments = TrainingArguments.from_values({"lr_scheduler_type": kind, "warmup_steps": 2})
    schedule = make_schedule(optimizer, arguments, 4)
    seen = []
    for _ in range(5):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(rates, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "steps"),
    [({}, 0), ({"warmup_steps": 7}, 7), ({"warmup_ratio": 0.1}, 3), ({"warmup_ratio": 0.11}, 4)],
)
def test_the_warm_up_is_steps_or_a_share(values, steps):
    assert warmup(TrainingArguments.from_values(values), 30) == steps
