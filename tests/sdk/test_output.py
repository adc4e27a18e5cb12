"""What a job's outputs become, and that the addresses which the SDK tells of them work as inputs: with the real SDK alone."""

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


def test_what_a_step_registers_lies_at_a_path_of_its_own(client, wait, log_of, tmp_path):
    write = command(
        command="echo ${{inputs.text}} > ${{outputs.o}}/rows.txt; cp ${{outputs.o}}/rows.txt ${{outputs.f}}",
        inputs={"text": "x"},
        outputs={"o": Output(type="uri_folder"), "f": Output(type="uri_file")},
        environment="azureml:plain-outputs@latest",
    )

    @dsl.pipeline(default_compute="local")
    def two_steps():
        first, second = write(text="first"), write(text="second")
        first.outputs.o.name, second.outputs.o.name, second.outputs.f.name = "rows", "more-rows", "row"

    assert wait(client.jobs.create_or_update(two_steps()).name).status == "Completed"
    paths = {name: client.data.get(name, label="latest").path for name in ("rows", "more-rows", "row")}
    assert len(set(paths.values())) == 3
    for name, path in paths.items():
        to = tmp_path / name
        download_artifact_from_aml_uri(uri=path, destination=str(to), datastore_operation=client.datastores)
        (file,) = to.iterdir()
        assert file.read_text() == ("first\n" if name == "rows" else "second\n")
    folder = Input(type="uri_folder", path=paths["rows"])
    assert log_of("cat ${{inputs.i}}/rows.txt", folder).endswith("first\n")
    assert log_of("cat ${{inputs.i}}", Input(type="uri_file", path=paths["row"])).endswith("second\n")
    client.data.archive("rows", version="1")
    assert client.data.get("rows", version="1").path == paths["rows"]


def test_the_path_of_a_model_that_a_job_made_is_an_input(client, run, log_of, workspace):
    job = run("echo weights > ${{outputs.m}}/w", outputs={"m": Output(type="custom_model", name="made")})
    workspace.models.register(job.name, name="of-the-home", output="m")
    taken = Model(name="taken", path=f"azureml://jobs/{job.name}/outputs/m", type="custom_model")
    found = {name: client.models.get(name, label="latest").path for name in ("made", "of-the-home")}
    for name, path in {**found, "taken": client.models.create_or_update(taken).path}.items():
        assert path.endswith(f"/paths/models/{name}/1/model")
        assert log_of("cat ${{inputs.i}}/w", Input(type="custom_model", path=path)).endswith("weights\n")


def test_what_a_command_had_written_when_it_failed_comes_with_its_log(client, run, tmp_path):
    write = "echo keep > outputs/k; echo part > ${{outputs.o}}/p; echo bye; exit 1"
    job = run(write, outputs={"o": Output(type="uri_folder"), "nothing": Output(type="uri_folder")})
    assert job.status == "Failed"
    client.jobs.download(job.name, download_path=tmp_path, all=True)
    assert (tmp_path / "artifacts" / "outputs" / "k").read_text() == "keep\n"
    assert (tmp_path / "artifacts" / "user_logs" / "std_log.txt").read_text().endswith("bye\n")
    assert (tmp_path / "named-outputs" / "o" / "p").read_text() == "part\n"
