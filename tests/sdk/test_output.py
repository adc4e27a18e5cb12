"""What a job's outputs become, and that the addresses which the SDK tells of them work as inputs: with the real SDK alone."""

from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input, Output, command, dsl
from azure.ai.ml._artifacts._artifact_utilities import download_artifact_from_aml_uri
from azure.ai.ml.entities import Data, Environment, Model


@pytest.fixture(scope="module")
def run(client: Any, wait: Any) -> Any:
    """Runs a command, waits for its end, and returns the job."""
    made = client.environments.create_or_update(
        Environment(name="plain-outputs", image="mcr.microsoft.com/azureml/any", version="1")
    )

    def run(line: str, **given: Any) -> Any:
        asked = command(command=line, environment=f"azureml:{made.name}:{made.version}", **given)
        return wait(client.jobs.create_or_update(asked).name)

    return run


@pytest.fixture(scope="module")
def log_of(run: Any, workspace: Any) -> Any:
    """Returns what a command says that takes one input."""

    def log_of(line: str, given: Input) -> str:
        job = run(line, inputs={"i": given})
        log = workspace.jobs.get(job.name).logs("command")
        assert job.status == "Completed", log
        return log

    return log_of


def test_an_asset_is_taken_by_name_and_label(client, run, log_of, wait, workspace, tmp_path):
    (tmp_path / "words.txt").write_text("some words")
    for version in ("1", "bar"):
        client.data.create_or_update(
            Data(name="labelled", version=version, path=str(tmp_path / "words.txt"), type="uri_file")
        )
    given = Input(type="uri_file", path="azureml:labelled@latest")
    assert "some words" in log_of("cat ${{inputs.i}}", given)
    show = command(command="cat ${{inputs.i}}", inputs={"i": given}, environment="azureml:plain-outputs@latest")

    @dsl.pipeline(default_compute="local")
    def of_one(words: Input):
        shown = show(i=words)
        shown.name = "shown"

    job = wait(client.jobs.create_or_update(of_one(words=given)).name)
    assert job.status == "Completed"
    assert "some words" in workspace.jobs.get(job.name).logs("shown")


def test_a_file_goes_to_the_path_that_is_named(run, log_of, workspace, container):
    path = "azureml://datastores/workspaceblobstore/paths/my/out.csv"
    for text in ("first", "second"):
        write = f"echo {text} > ${{{{outputs.f}}}}; echo ${{{{outputs.f}}}}"
        job = run(write, outputs={"f": Output(type="uri_file", path=path)})
    assert workspace.jobs.get(job.name).logs("command").endswith("/out.csv\n")
    assert [blob.name for blob in container.list_blobs(name_starts_with="my/")] == ["my/out.csv"]
    said = log_of("cat ${{inputs.i}}; echo ${{inputs.i}}", Input(type="uri_file", path=path))
    assert "second\n" in said and said.endswith("/out.csv\n")
