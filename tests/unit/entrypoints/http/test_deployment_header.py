"""Tests of `mafunzo.entrypoints.http.deployment_header`: the headers that name a deployment, ours and Azure's."""

import pytest

from mafunzo.entities.endpoint import Deployment
from mafunzo.entrypoints.http.deployment_header import deployment_headers, named_deployment


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        pytest.param({}, None, id="none: the traffic decides"),
        pytest.param({"mafunzo-deployment": "blue"}, "blue", id="ours"),
        pytest.param({"azureml-model-deployment": "green"}, "green", id="Azure's"),
        pytest.param({"azureml-model-deployment": "green", "mafunzo-deployment": "blue"}, "blue", id="ours first"),
    ],
)
def test_a_request_names_a_deployment_by_a_header(headers: dict[str, str], name: str | None) -> None:
    assert named_deployment(headers) == name


def test_an_answer_names_its_deployment_by_both() -> None:
    assert deployment_headers(Deployment("chat", "blue", "m:1", "sha256:0")) == {
        "mafunzo-deployment": "blue",
        "azureml-model-deployment": "blue",
    }
