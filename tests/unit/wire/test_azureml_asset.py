"""Bodies of assets on Azure's wire."""

import pytest

from mafunzo.errors import NotSupported
from mafunzo.wire.azureml.asset import data_from_body, model_from_body


@pytest.mark.parametrize(
    "path", ["/etc", "file:///etc", "etc", "../etc", "azureml:etc:1", "https://example.com/x", "a" * 5000]
)
def test_a_model_is_no_folder_of_the_servers(path: str) -> None:
    with pytest.raises(NotSupported, match="can be registered"):
        model_from_body({"properties": {"modelUri": path}})


@pytest.mark.parametrize(
    "path",
    [
        "azureml://jobs/one/outputs/trained_model",
        "azureml://datastores/workspaceblobstore/paths/LocalUpload/x/model",
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore/paths/model",
    ],
)
def test_a_model_is_a_jobs_output_or_an_upload(path: str) -> None:
    assert model_from_body({"properties": {"modelUri": path}}).path == path


def test_what_a_deployment_would_collect_is_refused_as_data():
    uri = "azureml://datastores/workspaceblobstore/paths/modelDataCollector/chat/blue/model_inputs"
    with pytest.raises(NotSupported, match="data collection isn't supported"):
        data_from_body("collected", {"properties": {"dataUri": uri, "dataType": "uri_folder"}})
