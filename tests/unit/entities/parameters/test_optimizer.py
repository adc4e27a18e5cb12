"""How weights are updated."""

import pytest

from mafunzo.entities.component import parse_value
from mafunzo.entities.parameters.optimizer import OPTIMIZER

NAMED = {parameter.name: parameter for parameter in OPTIMIZER}


@pytest.mark.parametrize(
    ("name", "value", "is_good"),
    [
        pytest.param("learning_rate", 0, False, id="no learning rate"),
        pytest.param("learning_rate", 1, True, id="the highest learning rate"),
        pytest.param("weight_decay", -0.1, False, id="negative decay"),
        pytest.param("optim", "adafactor", True, id="Adafactor"),
        pytest.param("precision", "8", False, id="eight bits"),
    ],
)
def test_ranges_are_what_the_mathematics_allows(name, value, is_good):
    _, fault = parse_value(NAMED[name].as_input(), value)
    assert (fault == "") == is_good
