"""How a model is trained."""

from mafunzo.entities.parameters.finetune import TRAINING

NAMED = {parameter.name: parameter for parameter in TRAINING}


def test_names_of_other_tools_are_accepted_for_the_commonest_ones():
    assert "lora_rank" in NAMED["lora_r"].aliases and "num_epochs" in NAMED["num_train_epochs"].aliases


def test_what_is_not_honoured_is_refused_with_a_reason():
    assert set(NAMED["metric_for_best_model"].refused) == {"f1", "exact"}
    assert "isn't supported" in NAMED["apply_ort"].refused["true"]


def test_merging_decides_what_is_evaluated_and_what_is_packaged():
    assert NAMED["merge_lora_weights"].steps == ("evaluate", "package_model")
