"""Command jobs and pipelines of the user's own components, with the real SDK as the only driver."""

import json
import os
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from azure.ai.ml import Input, Output, command, dsl, load_component, load_job
from azure.ai.ml.entities import (
    CommandComponent,
    Environment,
    JupyterLabJobService,
    Model,
    PipelineJob,
    PipelineJobSettings,
)
from azure.ai.ml.exceptions import JobException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from tests.support.stream import streamed
from tests.support.waiting import until

SCRIPT = """
import argparse, json, os, pathlib
parser = argparse.ArgumentParser()
for name in ("number", "text", "rate", "file", "folder", "out", "report"):
    parser.add_argument("--" + name)
given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
print("hello from", os.environ.get("GREETING", "nobody"), "rank", os.environ.get("RANK", "0"))
told = {name: given[name] for name in ("number", "text", "rate") if name in given}
for name in ("file", "folder"):
    if name in given:
        path = pathlib.Path(given[name])
        files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
        told[name] = {found.name: found.read_text() for found in files}
if "out" in given:
    (pathlib.Path(given["out"]) / "told.json").write_text(json.dumps(told))
if "report" in given:
    pathlib.Path(given["report"]).write_text(json.dumps(told))
os.makedirs("outputs", exist_ok=True)
pathlib.Path("outputs/extra.txt").write_text("extra " + pathlib.Path("data/words.txt").read_text())
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of code, with a file of data beside the script."""
    folder = tmp_path_factory.mktemp("src")
    (folder / "data").mkdir()
    (folder / "main.py").write_text(SCRIPT)
    (folder / "data" / "words.txt").write_text("words")
    (folder / "fail.py").write_text("import sys; print('about to fail'); sys.exit('the disk is on fire')")
    return folder


@pytest.fixture(scope="module")
def environment_asset(client: Any) -> Any:
    return client.environments.create_or_update(
        Environment(name="plain", image="mcr.microsoft.com/azureml/any", version="1")
    )


@pytest.fixture(scope="module")
def job(client: Any, code: Path, environment_asset: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A command job that has ended, with an input of each kind."""
    data = tmp_path_factory.mktemp("data")
    (data / "one.txt").write_text("1")
    (data / "two.txt").write_text("2")
    asked = command(
        code=str(code),
        command="python main.py --number ${{inputs.number}} --text ${{inputs.text}} --rate ${{inputs.rate}} "
        "--file ${{inputs.file}} --folder ${{inputs.folder}} --out ${{outputs.out}} --report ${{outputs.report}}",
        inputs={
            "number": 3,
            "text": "it's; $HOME",
            "rate": 0.5,
            "file": Input(type="uri_file", path=str(data / "one.txt"), mode="download"),
            "folder": Input(type="uri_folder", path=str(data)),
        },
        outputs={"out": Output(type="uri_folder"), "report": Output(type="uri_file", name="the-report", version="7")},
        environment=f"azureml:{environment_asset.name}:{environment_asset.version}",
        environment_variables={"GREETING": "the moon"},
        experiment_name="commands",
        display_name="a command",
        description="says what it was given",
        tags={"team": "a"},
    )
    made = client.jobs.create_or_update(asked)
    return client.jobs.get(made.name), streamed(client, made.name)


def test_a_command_runs_with_its_code_inputs_and_variables(job, client, tmp_path):
    found, told = client.jobs.get(job[0].name), job[1]
    assert "hello from the moon rank 0" in told and "user_logs/std_log.txt" in told
    assert (found.status, found.display_name, found.experiment_name) == ("Completed", "a command", "commands")
    assert (found.type, found.tags, found.description) == ("command", {"team": "a"}, "says what it was given")
    client.jobs.download(found.name, output_name="out", download_path=tmp_path)
    written = json.loads((tmp_path / "named-outputs" / "out" / "told.json").read_text())
    assert written == {
        "number": "3",
        "text": "it's; $HOME",
        "rate": "0.5",
        "file": {"one.txt": "1"},
        "folder": {"one.txt": "1", "two.txt": "2"},
    }


def test_what_a_command_writes_to_outputs_comes_with_its_log(job, client, tmp_path):
    client.jobs.download(job[0].name, download_path=tmp_path / "some")
    assert (tmp_path / "some" / "artifacts" / "outputs" / "extra.txt").read_text() == "extra words"
    assert "hello from the moon" in (tmp_path / "some" / "artifacts" / "user_logs" / "std_log.txt").read_text()
    client.jobs.download(job[0].name, download_path=tmp_path / "all", all=True)
    assert {path.name for path in (tmp_path / "all" / "named-outputs").iterdir()} == {"out", "report"}


def test_an_output_with_a_name_is_registered(job, client):
    found = client.data.get("the-report", version="7")
    assert found.type == "uri_file"
    made = client.models.create_or_update(
        Model(path=f"azureml://jobs/{job[0].name}/outputs/artifacts/paths/outputs/", name="extra", type="custom_model")
    )
    assert (made.version, client.models.get("extra", label="latest").version) == ("1", "1")
    assert client.models.get("extra", version="1").job_name == job[0].name


def test_the_same_folder_of_code_is_uploaded_once_and_runs_each_time(
    job, client, code, environment_asset, workspace, wait
):
    def submit() -> str:
        made = command(
            code=str(code), command="cat data/words.txt", environment=f"azureml:{environment_asset.name}@latest"
        )
        return client.jobs.create_or_update(made).name

    names = (submit(), submit(), job[0].name)
    assert len({workspace.jobs.get(name).steps[0].spec.code_artifact for name in names}) == 1
    assert {str(workspace.jobs.get(wait(name).name).steps[0].status) for name in names} == {"completed"}, (
        "none is cached"
    )


def test_a_command_takes_a_file_of_the_web_and_installs_into_a_place_of_its_own(
    web, client, environment_asset, workspace
):
    (web.folder / "iris.csv").write_text("5.1,3.5\n")
    made = client.jobs.create_or_update(
        command(
            command="cat ${{inputs.iris}}; pip --version; python -c 'import sys; print(sys.prefix)'; "
            'basename $AZURE_ML_INPUT_iris; echo "in $AZUREML_ARM_WORKSPACE_NAME $AZUREML_ROOT_RUN_ID"',
            inputs={"iris": Input(type="uri_file", path=f"{web.url}/iris.csv")},
            environment=f"azureml:{environment_asset.name}:1",
        )
    )
    told = streamed(client, made.name)
    own = workspace.jobs.get(made.name).folder(workspace.jobs.get(made.name).steps[0].name) / "environment"
    assert "5.1,3.5\n" in told
    assert f"{own}\n" in told and "iris.csv\n" in told and f"in mafunzo {made.name}\n" in told
    assert client.jobs.get(made.name).inputs["iris"].mode == "ro_mount"
    until(lambda: not own.exists())
    with pytest.raises(HttpResponseError, match=r"iris is '.*none.csv', which the server there answers with 404"):
        made = command(
            command="cat ${{inputs.iris}}",
            inputs={"iris": Input(type="uri_file", path=f"{web.url}/none.csv")},
            environment=f"azureml:{environment_asset.name}:1",
        )
        client.jobs.create_or_update(made)


def test_the_log_of_a_job_that_ended_before_anybody_looked_is_shown(client, environment_asset, wait, capsys):
    made = client.jobs.create_or_update(
        command(command="echo as quick as that", environment=f"azureml:{environment_asset.name}:1")
    )
    assert wait(made.name).status == "Completed"
    client.jobs.stream(made.name)
    told = capsys.readouterr().out
    assert "as quick as that" in told
    page = told.partition("Web View: ")[2].partition("\n")[0]
    with urlopen(page, context=ssl.create_default_context(capath=os.environ["REQUESTS_CA_BUNDLE"])) as answer:
        assert f"mafunzo job show {made.name}\n" in answer.read().decode()


def test_a_job_that_exists_is_asked_for_again_and_changes_in_what_is_said_of_it_alone(client, environment_asset, wait):
    def asked(text: str, **said: Any) -> Any:
        environment = f"azureml:{environment_asset.name}:1"
        return command(name="asked-again", command=f"echo {text}", environment=environment, **said)

    first = client.jobs.create_or_update(asked("one"))
    again = client.jobs.create_or_update(asked("one", tags={"team": "b"}, description="said later"))
    assert (again.creation_context.created_at, again.tags) == (first.creation_context.created_at, {"team": "b"})
    assert client.jobs.get(first.name).description == "said later"
    with pytest.raises(HttpResponseError, match="Job asked-again exists already, with other settings"):
        client.jobs.create_or_update(asked("two"))
    fetched = client.jobs.get(first.name)
    fetched.properties["part"] = "1"
    assert client.jobs.create_or_update(fetched).properties["part"] == "1"
    assert wait(first.name).status == "Completed"


def test_a_job_that_was_fetched_can_be_submitted_again_under_another_name(client, environment_asset, wait):
    path = "azureml://datastores/workspaceblobstore/paths/own/place/"
    asked = command(
        command="echo 1 > ${{outputs.here}}/a; echo 1 > ${{outputs.there}}/a",
        environment=f"azureml:{environment_asset.name}:1",
        outputs={"here": Output(type="uri_folder"), "there": Output(type="uri_folder", path=path)},
    )
    fetched = client.jobs.get(wait(client.jobs.create_or_update(asked).name).name)
    assert (fetched.outputs.there.path, fetched.outputs.there.mode) == (path, "rw_mount")
    fetched.name = "submitted-again"
    assert wait(client.jobs.create_or_update(fetched).name).status == "Completed"


def test_a_service_beside_a_command_is_refused(client, environment_asset):
    one = command(
        command="true", environment=f"azureml:{environment_asset.name}:1", services={"lab": JupyterLabJobService()}
    )
    with pytest.raises(HttpResponseError, match=r"Job '.*' asks for JupyterLab\. Services aren't run"):
        client.jobs.create_or_update(one)

    @dsl.pipeline(default_compute="local")
    def several():
        one().name = "first"

    with pytest.raises(HttpResponseError, match="Node 'first' asks for JupyterLab"):
        client.jobs.create_or_update(several())


def test_a_command_that_fails_tells_its_last_words(client, code, environment_asset):
    made = client.jobs.create_or_update(
        command(code=str(code), command="python fail.py", environment=f"azureml:{environment_asset.name}:1")
    )
    with pytest.raises(JobException, match="the disk is on fire"):
        streamed(client, made.name)


def test_a_command_ends_at_its_limit_and_when_it_is_cancelled(client, environment_asset, wait):
    slow = {"command": "sleep 100", "environment": f"azureml:{environment_asset.name}:1"}
    late = client.jobs.create_or_update(command(**slow, timeout=1))
    assert wait(late.name).status == "Failed"
    long = client.jobs.create_or_update(command(**slow))
    client.jobs.begin_cancel(long.name).wait()
    assert wait(long.name).status == "Canceled"
    client.jobs.begin_delete(long.name).wait()
    with pytest.raises(ResourceNotFoundError):
        client.jobs.get(long.name)


def test_a_distributed_command_runs_all_its_processes(client, environment_asset, tmp_path, wait):
    made = client.jobs.create_or_update(
        command(
            command="echo $RANK of $WORLD_SIZE > ${{outputs.out}}/$RANK.txt",
            environment=f"azureml:{environment_asset.name}:1",
            outputs={"out": Output(type="uri_folder")},
            distribution={"type": "PyTorch", "process_count_per_instance": 2},
            instance_count=2,
        )
    )
    assert wait(made.name).status == "Completed"
    client.jobs.download(made.name, output_name="out", download_path=tmp_path)
    folder = tmp_path / "named-outputs" / "out"
    assert {path.name: path.read_text().strip() for path in folder.iterdir()} == {
        f"{n}.txt": f"{n} of 4" for n in range(4)
    }


CONDA = """
name: small
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
      - humanize==4.11.0
"""


@pytest.mark.slow
def test_an_environment_is_built_once_from_pips_part_of_a_conda_file(client, tmp_path, wait, workspace):
    (tmp_path / "conda.yml").write_text(CONDA)
    asked = Environment(name="small", image="mcr.microsoft.com/any", conda_file=tmp_path / "conda.yml")
    made = client.environments.create_or_update(asked)
    assert (made.version, client.environments.get("small", label="latest").version) == ("1", "1")

    def log_of(text: str) -> str:
        program = f"import humanize; print({text!r}, humanize.intcomma(12345), '/environments/' in humanize.__file__)"
        job = command(command=f'python -c "{program}"', environment=f"azureml:small:{made.version}")
        name = client.jobs.create_or_update(job).name
        assert wait(name).status == "Completed"
        return workspace.jobs.get(name).logs("command")

    first, second = log_of("first"), log_of("second")
    assert "first 12,345 True" in first and "Installing collected packages: humanize" in first
    assert "second 12,345 True" in second and "Installing" not in second


def test_all_that_is_wrong_with_a_command_is_told_at_once(client, environment_asset):
    asked = command(
        command="cat ${{inputs.file}}",
        environment=f"azureml:{environment_asset.name}:1",
        inputs={"file": Input(type="uri_file", path="azureml://datastores/workspaceblobstore/paths/nowhere.csv")},
        compute="no-such-cluster",
    )
    with pytest.raises(HttpResponseError) as refused:
        client.jobs.create_or_update(asked)
    for fault in ("neither a blob 'nowhere.csv'", "'no-such-cluster', but no compute has that name"):
        assert fault in str(refused.value)


# Components and pipelines


@pytest.fixture(scope="module")
def components(client: Any, code: Path, environment_asset: Any) -> dict[str, CommandComponent]:
    """Two registered components: one counts, one sums up what others wrote."""
    count = CommandComponent(
        name="count",
        version="1",
        display_name="Count",
        description="writes a number",
        code=str(code),
        command="python main.py --number ${{inputs.number}} $[[--text ${{inputs.text}}]] --out ${{outputs.out}}",
        environment=f"azureml:{environment_asset.name}:1",
        inputs={
            "number": Input(type="integer", default=1, min=1, max=9),
            "text": Input(type="string", optional=True),
        },
        outputs={"out": Output(type="uri_folder")},
        tags={"team": "a"},
    )
    gather = CommandComponent(
        name="gather",
        version="1",
        command="cat ${{inputs.first}}/told.json ${{inputs.second}}/told.json > ${{outputs.all}}/told.json",
        environment=f"azureml:{environment_asset.name}:1",
        inputs={"first": Input(type="uri_folder"), "second": Input(type="uri_folder")},
        outputs={"all": Output(type="uri_folder")},
    )
    return {one.name: client.components.create_or_update(one) for one in (count, gather)}


def test_a_component_is_registered_listed_archived_and_never_changed(components, client):
    found = client.components.get("count", version="1")
    assert (found.display_name, found.description, found.tags) == ("Count", "writes a number", {"team": "a"})
    assert (found.inputs["number"].type, found.inputs["number"].max) == ("integer", 9)
    found.description, found.display_name = "said anew", "Counts"
    assert client.components.create_or_update(found).description == "said anew"
    assert client.components.get("count", version="1").display_name == "Counts"
    assert client.components.get("count").version == "1"
    assert {one.name for one in client.components.list()} >= {"count", "gather"}
    assert [one.version for one in client.components.list("count")] == ["1"]
    changed = CommandComponent(name="count", version="1", command="echo other", environment="azureml:plain:1")
    with pytest.raises(HttpResponseError, match="never changes"):
        client.components.create_or_update(changed)
    client.components.archive("gather", version="1")
    assert "gather" not in {one.name for one in client.components.list()}
    assert "gather" in {one.name for one in client.components.list(list_view_type="ArchivedOnly")}
    client.components.restore("gather", version="1")
    client.components.archive("gather")
    assert list(client.components.list("gather")) == []
    client.components.restore("gather")
    assert [one.version for one in client.components.list("gather")] == ["1"]


def test_a_pipeline_component_is_a_job_as_it_is(components, client, wait, tmp_path):
    """Called, named in a job, or named in a file; what isn't given is its own default."""

    @dsl.pipeline(name="one_count", version="1")
    def one_count(number: int = 4):
        one = count_by_default(number=number)
        return {"told": one.outputs.out}

    count_by_default = load_component(client=client, name="count", version="1")
    registered = client.components.create_or_update(one_count)
    called = registered(number=6)
    called.settings.default_compute = "local"
    named = PipelineJob(component="azureml:one_count:1", settings=PipelineJobSettings(default_compute="local"))
    (tmp_path / "job.yml").write_text(
        "type: pipeline\ncomponent: azureml:one_count:1\nsettings:\n  default_compute: azureml:local\n"
    )
    for asked, number in ((called, "6"), (named, "4"), (load_job(tmp_path / "job.yml"), "4")):
        made = client.jobs.create_or_update(asked)
        assert wait(made.name).status == "Completed"
        assert [child.display_name for child in client.jobs.list(parent_job_name=made.name)] == ["one"]
        client.jobs.download(made.name, output_name="told", download_path=tmp_path / made.name)
        told = json.loads((tmp_path / made.name / "named-outputs" / "told" / "told.json").read_text())
        assert told["number"] == number
    with pytest.raises(HttpResponseError, match="ends with it: cancel that job"):
        client.jobs.begin_cancel(f"{made.name}.one").result()


def test_a_node_names_a_component_by_its_default_label(components, client, wait, tmp_path):
    (tmp_path / "job.yml").write_text(
        "type: pipeline\nsettings:\n  default_compute: azureml:local\n"
        "jobs:\n  one:\n    type: command\n    component: azureml:count@default\n"
    )
    assert wait(client.jobs.create_or_update(load_job(tmp_path / "job.yml")).name).status == "Completed"


def test_a_binding_of_a_file_to_no_input_of_the_job_is_refused(components, client, tmp_path):
    (tmp_path / "job.yml").write_text(
        "type: pipeline\ninputs: {number: 3}\nsettings: {default_compute: azureml:local}\n"
        "jobs:\n  one:\n    type: command\n    component: azureml:count:1\n"
        "    inputs: {number: '${{parent.inputs.numbr}}'}\n"
    )
    with pytest.raises(HttpResponseError, match=r"number comes from the job's input numbr, but .*number"):
        client.jobs.create_or_update(load_job(tmp_path / "job.yml"))


@pytest.fixture(scope="module")
def nested(components: dict[str, CommandComponent], client: Any) -> Any:
    """A pipeline job whose one node is a pipeline, that has ended."""
    count, gather = components["count"], components["gather"]

    @dsl.pipeline(name="two_counts", display_name="Two counts")
    def two_counts(number: int, text: str = "inner"):
        first = count(number=number, text=text)
        second = count(number=2)
        both = gather(first=first.outputs.out, second=second.outputs.out)
        return {"all": both.outputs.all}

    @dsl.pipeline(display_name="nested", experiment_name="pipelines", default_compute="local", tags={"kind": "nested"})
    def whole(number: int = 5):
        inner = two_counts(number=number)
        alone = count(number=number, text="alone")
        alone.environment_variables = {"GREETING": "a node"}
        last = gather(first=inner.outputs.all, second=alone.outputs.out)
        return {"result": last.outputs.all}

    made = whole(number=7)
    made.outputs.result = Output(type="uri_folder", name="gathered")
    return client.jobs.create_or_update(made)


def test_a_nested_pipeline_runs_each_step_where_it_belongs(nested, client, wait, workspace, tmp_path):
    assert wait(nested.name).status == "Completed"
    steps = {step.name: step for step in workspace.jobs.get(nested.name).steps}
    assert list(steps) == ["inner.first", "inner.second", "inner.both", "alone", "last"]
    client.jobs.download(nested.name, output_name="result", download_path=tmp_path)
    told = (tmp_path / "named-outputs" / "result" / "told.json").read_text()
    assert told == '{"number": "7", "text": "inner"}{"number": "2"}{"number": "7", "text": "alone"}'
    assert "hello from a node" in workspace.jobs.get(nested.name).logs("alone")
    registered = client.data.get("gathered", label="latest")
    assert (registered.version, registered.type) == ("1", "uri_folder")


def test_the_steps_of_a_pipeline_are_jobs_of_their_own(nested, client, wait, tmp_path):
    wait(nested.name)
    children = {child.display_name: child for child in client.jobs.list(parent_job_name=nested.name)}
    assert {name: child.status for name, child in children.items()} == dict.fromkeys(
        ["inner.first", "inner.second", "inner.both", "alone", "last"], "Completed"
    )
    child = client.jobs.get(children["inner.second"].name)
    client.jobs.download(child.name, output_name="out", download_path=tmp_path)
    assert json.loads((tmp_path / "named-outputs" / "out" / "told.json").read_text()) == {"number": "2"}
    client.jobs.download(child.name, download_path=tmp_path)
    assert "hello from nobody" in (tmp_path / "artifacts" / "user_logs" / "std_log.txt").read_text()


def test_a_pipeline_is_shown_as_it_was_sent(nested, client):
    found = client.jobs.get(nested.name)
    assert (found.display_name, found.experiment_name, found.tags) == ("nested", "pipelines", {"kind": "nested"})
    assert set(found.jobs) == {"inner", "alone", "last"}
    assert found.outputs["result"].type == "uri_folder"


def test_a_job_is_renamed_tagged_hidden_and_found(nested, client, wait):
    wait(nested.name)
    client.jobs.update(nested.name, display_name="renamed", tags={"kind": "other"}, description="about it")
    found = client.jobs.get(nested.name)
    assert (found.display_name, found.tags, found.description) == ("renamed", {"kind": "other"}, "about it")
    client.jobs.archive(nested.name)
    assert nested.name not in {job.name for job in client.jobs.list()}
    assert nested.name in {job.name for job in client.jobs.list(list_view_type="ArchivedOnly")}
    client.jobs.restore(nested.name)
    assert nested.name in {job.name for job in client.jobs.list()}


def test_a_second_run_reuses_what_the_first_one_made_unless_told(components, nested, client, wait, workspace):
    wait(nested.name)
    count = components["count"]

    @dsl.pipeline(default_compute="local")
    def again(number: int):
        count(number=number, text="alone")

    def step(is_forced: bool) -> tuple[str, str, str | None]:
        """Return the job, how its only step ended, and which one it was taken from."""
        made = again(number=9)
        made.settings.force_rerun = is_forced
        name = wait(client.jobs.create_or_update(made).name).name
        (child,) = client.jobs.list(parent_job_name=name)
        return name, str(workspace.jobs.get(name).steps[0].status), child.properties.get("azureml.reusedrunid")

    name, status, _ = step(False)
    assert status == "completed"
    assert step(False)[1:] == ("cached", f"{name}.count")
    assert step(True)[1:] == ("completed", None)


def test_a_failed_step_ends_the_pipeline_unless_it_is_to_go_on(components, client, code, wait, workspace):
    bad = command(code=str(code), command="python fail.py && echo > ${{outputs.out}}/x", environment="azureml:plain:1",
                  outputs={"out": Output(type="uri_folder")})  # fmt: skip
    count, gather = components["count"], components["gather"]

    @dsl.pipeline(default_compute="local")
    def mixed():
        first = bad()
        second = count(number=3, text="beside")
        gather(first=first.outputs.out, second=second.outputs.out)

    made = mixed()
    made.settings.continue_on_step_failure = True
    job = client.jobs.create_or_update(made)
    with pytest.raises(JobException, match="the disk is on fire"):
        streamed(client, job.name)
    steps = {step.name: str(step.status) for step in workspace.jobs.get(job.name).steps}
    assert steps == {"first": "failed", "second": "completed", "gather": "skipped"}


COMPONENT = """
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
type: command
name: from_file
version: 3
display_name: From a file
inputs:
  number:
    type: number
    default: 0.5
outputs:
  out:
    type: uri_folder
code: ./src
environment:
  image: mcr.microsoft.com/azureml/any
command: python main.py --rate ${{inputs.number}} --out ${{outputs.out}}
"""
PIPELINE = """
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
display_name: from a file
experiment_name: files
inputs:
  number: 0.25
outputs:
  out:
    type: uri_folder
settings:
  default_compute: azureml:local
jobs:
  first:
    type: command
    component: ./component.yml
    inputs:
      number: ${{parent.inputs.number}}
  inline:
    type: command
    command: cp ${{inputs.from}}/told.json ${{outputs.out}}/copy.json
    environment: azureml:plain:1
    inputs:
      from: ${{parent.jobs.first.outputs.out}}
    outputs:
      out: ${{parent.outputs.out}}
"""


def test_components_and_pipelines_come_from_files(client, code, environment_asset, tmp_path, wait):
    (tmp_path / "src").symlink_to(code)
    (tmp_path / "component.yml").write_text(COMPONENT)
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    made = client.components.create_or_update(load_component(tmp_path / "component.yml"))
    assert (made.name, made.version, made.inputs["number"].default) == ("from_file", "3", 0.5)
    job = client.jobs.create_or_update(load_job(tmp_path / "pipeline.yml"))
    assert wait(job.name).status == "Completed"
    client.jobs.download(job.name, output_name="out", download_path=tmp_path)
    assert json.loads((tmp_path / "named-outputs" / "out" / "copy.json").read_text()) == {"rate": "0.25"}


def test_a_version_that_is_not_named_is_the_next_one(client, code, environment_asset):
    def register() -> str:
        asked = CommandComponent(name="counted", command="echo one", environment=f"azureml:{environment_asset.name}:1")
        asked.description = str(time.time_ns())
        return client.components.create_or_update(asked).version

    assert [register(), register()] == ["1", "2"]


LOGS_IN = """
import os
from azure.ai.ml import MLClient
from azure.ai.ml.entities import Data
from azure.identity import DefaultAzureCredential
names = ("SUBSCRIPTION", "RESOURCEGROUP", "WORKSPACE_NAME")
client = MLClient(DefaultAzureCredential(), *(os.environ[f"AZUREML_ARM_{name}"] for name in names))
print("sees", client.jobs.get(os.environ["AZUREML_ROOT_RUN_ID"]).name)
open("words.txt", "w").write("words")
print("made", client.data.create_or_update(Data(name="from-a-job", version="1", path="words.txt", type="uri_file")).name)
"""


def test_a_command_logs_in_as_its_job(client, wait, workspace, tmp_path):
    (tmp_path / "logs_in.py").write_text(LOGS_IN)
    job = command(command="python logs_in.py", code=str(tmp_path), environment="azureml:AzureML-local@latest")
    ended = wait(client.jobs.create_or_update(job).name)
    log = workspace.jobs.get(ended.name).logs("command")
    assert ended.status == "Completed", log
    assert f"sees {ended.name}" in log and "made from-a-job" in log
    assert client.data.get("from-a-job", version="1").creation_context.created_by == workspace.user
