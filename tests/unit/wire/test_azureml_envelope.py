"""How the paths of Azure's wire are spelled before they are matched."""

import pytest

from mafunzo.wire.azureml.envelope import plain_path


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/Subscriptions/a/resourcegroups/b", "/subscriptions/a/resourceGroups/b"),
        ("/mferp/managementfrontend/subscriptions/a", "/subscriptions/a"),
        ("/history/v1.0/subscriptions/a", "/subscriptions/a"),
        ("/azureml-registry", "/mafunzo.blob.local/azureml-registry"),
        ("/azureml-registry/models/a/1/model", "/mafunzo.blob.local/azureml-registry/models/a/1/model"),
        ("/azureml-registry-of-mine/a", "/azureml-registry-of-mine/a"),
        ("/mafunzo.blob.local/azureml-registry/a", "/mafunzo.blob.local/azureml-registry/a"),
    ],
)
def test_a_path_is_spelled_in_one_way(path: str, plain: str) -> None:
    assert plain_path(path) == plain
