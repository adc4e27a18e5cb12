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


@pytest.mark.parametrize(("name", "reason"), [("adamw_8bit", "needs bitsandbytes"), ("lion", "neither torch nor")])
def test_an_optimizer_that_no_package_here_has_is_refused_by_name_with_those_there_are(name, reason):
    _, fault = parse_value(NAMED["optim"].as_input(), name)
    assert fault.startswith(f"optim is '{name}': ") and reason in fault and "adamw_torch" in fault
    _, fault = parse_value(NAMED["optim"].as_input(), "adamax")
    assert fault.startswith("optim is 'adamax', expected one of adamw_torch, adafactor, adamw_torch_fused, sgd, muon.")
