"""Tests of `mafunzo.entities.component`: a value against its declaration."""

import pytest

from mafunzo.entities.component import Input, parse_value, unknown_name

RATE = Input("learning_rate", "number", exclusive_minimum=0.0, maximum=1.0)
EPOCHS = Input("num_train_epochs", "integer", minimum=1)
KIND = Input("lr_scheduler_type", "string", enum=("linear", "cosine"))
STAGE = Input("deepspeed_stage", "string", default="2", enum=("2", "3"), refused={"3": "not yet; use 2."})
NODES = Input("num_nodes", "integer", default=1, refused={"*": "one machine only."})


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        pytest.param(RATE, "2e-5", 2e-5, id="a number from text"),
        pytest.param(EPOCHS, 3.0, 3, id="a whole number that came as a float"),
        pytest.param(EPOCHS, "3", 3, id="a whole number from text"),
        pytest.param(KIND, "cosine", "cosine", id="one of the values"),
        pytest.param(STAGE, 2, "2", id="a number where the enum has texts"),
        pytest.param(Input("apply_lora", "string", enum=("true", "false")), True, "true", id="Python's True"),
        pytest.param(Input("flag", "boolean"), "False", False, id="a boolean from text"),
        pytest.param(NODES, 1, 1, id="the default of a refused input"),
    ],
)
def test_good_values_are_parsed(declared, given, expected):
    assert parse_value(declared, given) == (expected, "")


@pytest.mark.parametrize(
    ("declared", "given", "fault"),
    [
        pytest.param(RATE, 0, "learning_rate is 0, expected a number above 0 and at most 1.", id="on the open bound"),
        pytest.param(RATE, "fast", "learning_rate is 'fast', expected a number above 0 and at most 1.", id="no number"),
        pytest.param(
            RATE, "nan", "learning_rate is 'nan', expected a number above 0 and at most 1.", id="not a number"
        ),
        pytest.param(EPOCHS, 0, "num_train_epochs is 0, expected a whole number, 1 or more.", id="too small"),
        pytest.param(EPOCHS, 1.5, "num_train_epochs is 1.5, expected a whole number, 1 or more.", id="a fraction"),
        pytest.param(EPOCHS, True, "num_train_epochs is True, expected a whole number, 1 or more.", id="a boolean"),
        pytest.param(
            KIND,
            "cosin",
            "lr_scheduler_type is 'cosin', expected one of linear, cosine. Did you mean cosine?",
            id="typo",
        ),
        pytest.param(STAGE, "3", "deepspeed_stage is '3': not yet; use 2.", id="a refused value"),
        pytest.param(NODES, 2, "num_nodes is 2: one machine only.", id="anything but the default"),
    ],
)
def test_a_fault_says_what_was_given_and_what_is_expected(declared, given, fault):
    assert parse_value(declared, given) == (None, fault)


def test_an_unknown_name_comes_with_the_nearest_known_one():
    assert unknown_name("lora_rr", ["lora_r", "seed"]) == "lora_rr is not a parameter. Did you mean lora_r?"
    assert unknown_name("zzz", ["lora_r"]) == "zzz is not a parameter."
