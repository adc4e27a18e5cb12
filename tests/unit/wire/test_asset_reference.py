"""Tests of `mafunzo.wire.azureml.asset`."""

import pytest

from mafunzo.wire.azureml.asset import AssetReference, JobOutputReference, parse_reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chitchat", AssetReference("chitchat")),
        ("chitchat:2", AssetReference("chitchat", "2")),
        ("azureml:chitchat:2", AssetReference("chitchat", "2")),
        ("chitchat@latest", AssetReference("chitchat")),
        ("chitchat@good", AssetReference("chitchat", label="good")),
        ("azureml://registries/azureml/models/phi/versions/3", AssetReference("phi", "3", registry="azureml")),
        ("azureml://registries/azureml/models/phi/labels/latest", AssetReference("phi", registry="azureml")),
        ("azureml://jobs/j1/outputs/trained_model", JobOutputReference("j1", "trained_model")),
        ("azureml://jobs/j1/outputs/trained_model/paths/", JobOutputReference("j1", "trained_model")),
        ("org/name", None),
        ("", None),
    ],
)
def test_every_way_to_write_a_name(text, expected):
    assert parse_reference(text) == expected
