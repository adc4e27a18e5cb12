"""Where the base model comes from."""

from mafunzo.entities.parameters.base_model import BASE_MODEL

NAMED = {parameter.name: parameter for parameter in BASE_MODEL}


def test_every_way_to_name_a_model_is_the_import_s_alone():
    ways = ("huggingface_id", "pytorch_model_path", "mlflow_model_path", "base_model_path", "mirror")
    assert {NAMED[name].steps for name in ways} == {("import_model",)}
    assert all(NAMED[name].default is None for name in ways)


def test_code_of_a_model_runs_nowhere_unless_that_is_asked_for():
    assert NAMED["trust_remote_code"].default == "false" and len(NAMED["trust_remote_code"].steps) == 5


def test_weights_of_another_shape_are_refused_with_the_reason():
    assert "random weights" in NAMED["ignore_mismatched_sizes"].refused["true"]
