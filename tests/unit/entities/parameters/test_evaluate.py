"""What is compared, and what fails a job."""

from mafunzo.entities.metric_name import METRIC_NAMES
from mafunzo.entities.parameters.evaluate import EVALUATION

NAMED = {parameter.name: parameter for parameter in EVALUATION}


def test_no_gate_closes_unless_that_is_asked_for():
    assert NAMED["gate"].default == "none" and NAMED["gate_max_kl"].default is None


def test_a_gate_may_look_at_every_metric():
    assert NAMED["gate_metric"].enum == METRIC_NAMES


def test_evaluation_alone_takes_them():
    assert {parameter.steps for parameter in EVALUATION} == {("evaluate",)}
