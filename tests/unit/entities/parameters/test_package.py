"""How the tuned model is packaged."""

from mafunzo.entities.parameters.package import PACKAGE


def test_its_component_calls_the_model_s_name_a_name():
    [parameter] = PACKAGE
    assert parameter.input_of("package_model").name == "name" and parameter.name == "model_name"
