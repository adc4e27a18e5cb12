"""Batch endpoints with the Azure SDK: made, invoked with a file, the answers downloaded, and what is refused by name."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input
from azure.ai.ml.entities import (
    BatchEndpoint,
    BatchRetrySettings,
    Model,
    ModelBatchDeployment,
    ModelBatchDeploymentSettings,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mafunzo.compute.components.tiny_model import make

SETTINGS: dict[str, Any] = {"mini_batch_size": 8, "max_concurrency_per_instance": 2, "error_threshold": 5}


@pytest.fixture(scope="module")
def model(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make("tiny-llama", 2, folder)
    return client.models.create_or_update(Model(path=str(folder), type="custom_model", name="tiny-batch", version="1"))


def deployment(model: Any, endpoint: str, name: str, **settings: Any) -> ModelBatchDeployment:
    return ModelBatchDeployment(
        name=name,
        endpoint_name=endpoint,
        model=model,
        settings=ModelBatchDeploymentSettings(**{**SETTINGS, **settings}),
        properties={"mafunzo.max_new_tokens": "4"},
    )


@pytest.fixture(scope="module")
def endpoint(client: Any, model: Any) -> str:
    """The name of an endpoint with a default deployment, `lines`, and another one, `table`."""
    client.batch_endpoints.begin_create_or_update(BatchEndpoint(name="answers", description="Rows")).result()
    for name, file in (("lines", "out.jsonl"), ("table", "predictions.csv")):
        made = deployment(model, "answers", name, output_file_name=file)
        client.batch_deployments.begin_create_or_update(made).result()
    found = client.batch_endpoints.get("answers")
    found.defaults.deployment_name = "lines"
    client.batch_endpoints.begin_create_or_update(found).result()
    return "answers"


def test_an_endpoint_and_its_deployments_are_what_was_asked(client: Any, endpoint: str) -> None:
    found = client.batch_endpoints.get(endpoint)
    assert (found.defaults.deployment_name, found.description, found.auth_mode) == ("lines", "Rows", "aad_token")
    assert endpoint in [one.name for one in client.batch_endpoints.list()]
    assert [one.name for one in client.batch_deployments.list(endpoint)] == ["lines", "table"]
    one = client.batch_deployments.get("lines", endpoint)
    assert (one.mini_batch_size, one.max_concurrency_per_instance, one.error_threshold) == (8, 2, 5)
    assert (one.output_file_name, one.output_action, one.model.split("/")[-3]) == (
        "out.jsonl",
        "append_row",
        "tiny-batch",
    )


@pytest.mark.slow
def test_a_file_is_answered_by_a_job_of_the_endpoint(
    client: Any, endpoint: str, wait: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (rows := tmp_path / "rows.jsonl").write_text('{"prompt": "1"}\n{"text": "2"}\n')
    job = client.batch_endpoints.invoke(endpoint_name=endpoint, input=Input(type="uri_file", path=str(rows)))
    client.jobs.stream(job.name)
    assert client.jobs.get(job.name).status == "Completed"
    client.jobs.download(job.name, output_name="score", download_path=str(tmp_path / "to"))
    (file,) = tmp_path.rglob("out.jsonl")
    good, bad = map(json.loads, file.read_text().splitlines())
    assert good["usage"]["completion_tokens"] <= 4
    assert "asks nothing" in bad["error"]["message"]
    inputs = {"rows": Input(type="uri_folder", path=str(tmp_path)), "temperature": Input(type="number", default=0.5)}
    (tmp_path / "to").rename(tmp_path.parent / f"{tmp_path.name}-to")
    other = client.batch_endpoints.invoke(
        endpoint_name=endpoint, deployment_name="table", inputs=inputs, experiment_name="mine"
    )
    assert wait(other.name).experiment_name == "mine"
    client.jobs.download(other.name, output_name="score", download_path=str(tmp_path / "table"))
    with next(tmp_path.rglob("predictions.csv")).open(newline="") as table:
        assert [row["row"] for row in csv.DictReader(table)] == ["1", "2"]
    assert [one.name for one in client.batch_endpoints.list_jobs(endpoint)] == [other.name, job.name]
    assert [one.name for one in client.batch_deployments.list_jobs(endpoint, name="lines")] == [job.name]


def test_what_is_not_honoured_is_refused_by_name(client: Any, endpoint: str, model: Any, tmp_path: Path) -> None:
    retried = deployment(model, endpoint, "other", retry_settings=BatchRetrySettings(max_retries=2, timeout=30))
    with pytest.raises(HttpResponseError, match="retry_settings aren't supported"):
        client.batch_deployments.begin_create_or_update(retried).result()
    (rows := tmp_path / "rows.jsonl").write_text('{"text": "2"}')
    with pytest.raises(Exception, match="data has no row that can be answered"):
        client.batch_endpoints.invoke(endpoint_name=endpoint, input=Input(type="uri_file", path=str(rows)))


def test_what_is_deleted_is_gone(client: Any, model: Any) -> None:
    client.batch_endpoints.begin_create_or_update(BatchEndpoint(name="brief")).result()
    client.batch_deployments.begin_create_or_update(deployment(model, "brief", "one")).result()
    client.batch_deployments.begin_delete("one", "brief").result()
    assert list(client.batch_deployments.list("brief")) == []
    client.batch_endpoints.begin_delete("brief").result()
    with pytest.raises(ResourceNotFoundError):
        client.batch_endpoints.get("brief")
