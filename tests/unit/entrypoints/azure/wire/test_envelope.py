"""How the paths of Azure's wire are spelled before they are matched."""

import pytest

from mafunzo.entrypoints.azure.wire.envelope import Place, error_body, plain_path
from mafunzo.errors import VersionTaken

OF_GROUP = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/Subscriptions/a/resourcegroups/b", "/subscriptions/a/resourceGroups/b"),
        ("/mferp/managementfrontend/subscriptions/a", "/subscriptions/a"),
        ("/history/v1.0/subscriptions/a", "/subscriptions/a"),
        ("/azureml-registry", "/mafunzo.blob.local/azureml-registry"),
        ("/azureml-registry/models/a/1/model", "/mafunzo.blob.local/azureml-registry/models/a/1/model"),
        ("/azureml-registry-of-mine/a", "/azureml-registry-of-mine/a"),
        (f"{OF_GROUP}/workspaces/w/data/azureml:talks", f"{OF_GROUP}/workspaces/w/data/talks"),
        (
            f"/mferp/managementfrontend{OF_GROUP}/Registries/r/models/azureml:phi/versions/3",
            f"{OF_GROUP}/registries/r/models/phi/versions/3",
        ),
        (f"{OF_GROUP}/workspaces/w/jobs/azureml:j", f"{OF_GROUP}/workspaces/w/jobs/azureml:j"),
        ("/mafunzo.blob.local/c/data/azureml:a", "/mafunzo.blob.local/c/data/azureml:a"),
        ("/mafunzo.blob.local/azureml-registry/a", "/mafunzo.blob.local/azureml-registry/a"),
    ],
)
def test_a_path_is_spelled_in_one_way(path: str, plain: str) -> None:
    assert plain_path(path) == plain


@pytest.mark.parametrize(
    ("has_files", "message"),
    [
        pytest.param(
            True, "Asset paths cannot be updated. Model a:1 exists already.", id="by the words that clients know"
        ),
        pytest.param(False, "Model a:1 exists already.", id="nothing of paths where there are none"),
    ],
)
def test_a_version_with_other_content_is_a_conflict(has_files: bool, message: str) -> None:
    error = error_body(VersionTaken("Model a:1 exists already.", has_files=has_files))["error"]
    assert (error["code"], error["message"]) == ("ResourceConflict", message)


@pytest.mark.parametrize(
    ("base", "audience"),
    [
        ("https://127.0.0.1:8443", "https://ml.azure.0.1:8443"),
        ("https://gpu-box:8443", "https://ml.azure."),
        ("https://gpu.example.org:8443", "https://ml.azure.org:8443"),
    ],
)
def test_the_audience_of_batch_jobs_is_what_the_sdk_makes_of_the_address(base: str, audience: str) -> None:
    assert Place(base).ml_audience == audience
