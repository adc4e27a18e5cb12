"""Which layers get an adapter, by names alone; test_lora.py holds the choice against peft's."""

import pytest

from mafunzo.entities.parameters.table import DEFAULTS
from mafunzo.entities.parameters.target_modules import (
    Modules,
    TargetModules,
    by_pattern,
    layer_number,
    layer_numbers,
    pattern_values,
    split_names,
)

KINDS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
LINEARS = [*(f"model.layers.{number}.{kind}" for number in range(3) for kind in KINDS), "lm_head"]


def targets(**values: str) -> TargetModules:
    return TargetModules.of(DEFAULTS | values)


@pytest.mark.parametrize("text", ["q_proj,v_proj", "q_proj, v_proj", "['q_proj', 'v_proj']", "q_proj v_proj"])
def test_names_are_read_in_the_ways_that_people_write_them(text):
    assert split_names(text) == ("q_proj", "v_proj")
    assert Modules.of(text) == Modules(("q_proj", "v_proj"))


@pytest.mark.parametrize("text", [r".*\.q_proj", "model.layers.[01].mlp.up_proj", "[a-z.]+[0-2].mlp.up_proj", "(a|b)"])
def test_what_is_no_list_of_names_is_a_pattern(text):
    assert Modules.of(text) == Modules(pattern=text)


@pytest.mark.parametrize("text", [None, "all", "all-linear", "['all-linear']"])
def test_all_linear_layers_are_what_is_left_out(text):
    assert targets(lora_target_modules=text).is_default
    assert targets().select(LINEARS, "lm_head") == LINEARS[:-1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"lora_target_modules": "q_proj"}, [0, 3, 6], id="the last part"),
        pytest.param({"lora_target_modules": "self_attn.q_proj,lm_head"}, [0, 3, 6, 9], id="several parts, the head"),
        pytest.param({"lora_target_modules": "proj"}, [], id="no whole part"),
        pytest.param({"lora_target_modules": r".*\.[12]\..*v_proj"}, [4, 7], id="a pattern"),
        pytest.param({"lora_target_modules": "layers.1.*"}, [], id="a pattern of a part"),
        pytest.param({"exclude_modules": "mlp.up_proj"}, [0, 1, 3, 4, 6, 7], id="names left out"),
        pytest.param({"exclude_modules": r".*\.[12]\..*"}, [0, 1, 2], id="a pattern left out"),
        pytest.param({"layers_to_transform": "0,2"}, [0, 1, 2, 6, 7, 8], id="layers"),
        pytest.param({"layers_to_transform": "1-2", "lora_target_modules": "q_proj"}, [3, 6], id="a range of layers"),
        pytest.param({"layers_to_transform": "1", "layers_pattern": "layers"}, [3, 4, 5], id="layers of a list"),
    ],
)
def test_layers_are_chosen(values, expected):
    chosen = targets(**values).select(LINEARS, "lm_head")
    assert chosen == [LINEARS[index] for index in expected]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        pytest.param(
            {"lora_target_modules": "q_proj,w1"},
            "lora_target_modules has 'w1', expected some of q_proj, up_proj, v_proj for m.",
            id="a name",
        ),
        pytest.param(
            {"lora_target_modules": ".*wq"},
            "lora_target_modules is the pattern '.*wq', which matches the whole name of no linear layer for m. They are "
            "model.layers.N.self_attn.q_proj, model.layers.N.self_attn.v_proj, model.layers.N.mlp.up_proj (N: 0 to 2).",
            id="a pattern",
        ),
        pytest.param(
            {"exclude_modules": "k_proj"},
            "exclude_modules has 'k_proj', expected some of q_proj, up_proj, v_proj for m.",
            id="a name left out",
        ),
        pytest.param(
            {"layers_to_transform": "1-4"}, "layers_to_transform has 3, 4, expected 0 to 2 for m.", id="layers"
        ),
        pytest.param(
            {"layers_to_transform": "1", "layers_pattern": "h"},
            "layers_pattern is 'h', and no linear layer for m is in such a list. They are model.layers.N.self_attn.q_proj, "
            "model.layers.N.self_attn.v_proj, model.layers.N.mlp.up_proj (N: 0 to 2).",
            id="a list",
        ),
        pytest.param(
            {"lora_target_modules": "q_proj", "exclude_modules": "self_attn.q_proj"},
            "No layer for m gets an adapter, and nothing would be trained: lora_target_modules, exclude_modules and "
            "layers_to_transform have none in common.",
            id="nothing to train",
        ),
        pytest.param(
            {"rank_pattern": '{"k_proj": 2}'},
            "rank_pattern has 'k_proj', which is none of the layers that get an adapter: q_proj, up_proj, v_proj.",
            id="a rank of none",
        ),
        pytest.param(
            {"lora_target_modules": "lm_head"},
            "lora_target_modules has 'lm_head', whose weight is the embedding's too in m: leave it out.",
            id="a tied head",
        ),
        pytest.param(
            {"lora_target_modules": ".*"},
            "lora_target_modules is the pattern '.*', which matches lm_head, whose weight is the embedding's too in m: leave "
            "it out.",
            id="a pattern of a tied head",
        ),
    ],
)
def test_what_names_no_layer_is_told_with_those_that_there_are(values, fault):
    assert targets(**values).faults(LINEARS, "lm_head", is_head_tied=True, model="m") == [fault]


def test_a_choice_that_names_layers_has_no_faults():
    chosen = targets(lora_target_modules="q_proj,lm_head", rank_pattern='{"layers.1.*": 2}', layers_to_transform="1")
    assert targets().faults(LINEARS, "lm_head", is_head_tied=True) == []
    assert targets(lora_target_modules=".*", exclude_modules="lm_head").faults(LINEARS, "lm_head", True) == []
    assert chosen.faults(LINEARS, "lm_head") == []


def test_numbers_of_layers_are_read_with_ranges():
    assert layer_numbers("0,1, 8-11") == (0, 1, 8, 9, 10, 11)
    assert layer_numbers("[2, 1, 2]") == (2, 1) and layer_numbers(None) == ()
    for text in ("one", "1-", "0-99999999"):
        with pytest.raises(ValueError, match="is n"):
            layer_numbers(text)


def test_the_number_of_a_layer_is_the_first_in_its_name():
    assert layer_number("model.layers.3.mlp.experts.5.w1") == 3
    assert layer_number("model.layers.3.mlp.experts.5.w1", ["experts"]) == 5
    assert layer_number("lm_head") is None


def test_the_first_pattern_that_fits_the_end_of_a_name_counts():
    assert by_pattern({"q_proj": 4, ".*": 2}, "model.layers.0.self_attn.q_proj", 8) == 4
    assert by_pattern({"q": 4, "layers.0.mlp.up_proj": 2}, "model.layers.0.mlp.up_proj", 8) == 2
    assert by_pattern({"q_proj": 4}, "model.layers.0.mlp.xq_proj", 8) == 8
    assert pattern_values('{"q_proj": 4, "up": 0.5}') == {"q_proj": 4, "up": 0.5}
