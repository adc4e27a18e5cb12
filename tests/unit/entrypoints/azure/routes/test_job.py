"""Jobs and runs over Azure's wire."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo.entities.job import ArtifactInput, JobStatus, StepStatus
from mafunzo.entities.sweep import BEST_TRIAL, BEST_VALUE
from mafunzo.entrypoints.azure.files.creation import create
from mafunzo.entrypoints.azure.job_log import JobLogs
from mafunzo.entrypoints.azure.wire.envelope import workspace_id
from tests.support.azure_bench import BASE, Bench, azure_bench
from tests.support.azure_sdk import sdk_client


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        context = opened.app.state.context
        opened.app.state.context = replace(context, job_logs=JobLogs(opened.workspace))
        yield opened


def command(**more: Any) -> dict[str, Any]:
    properties = {"jobType": "Command", "command": "echo hi", "experimentName": "exp", "displayName": "hello"}
    return {"properties": properties | more}


def put(bench: Bench, name: str = "one", **more: Any) -> Any:
    answer = bench.owner.ask("PUT", f"jobs/{name}", command(**more))
    assert answer.status_code == 201, answer.text
    return answer.json()


def ended(bench: Bench, name: str = "one") -> None:
    """End a job, as the scheduler does."""
    records = bench.workspace.records
    for step in bench.workspace.jobs.get(name).steps:
        records.steps.update(replace(step, status=StepStatus.COMPLETED))
    records.jobs.update(replace(bench.workspace.jobs.get(name).job, status=JobStatus.COMPLETED))


def test_a_job_is_queued_and_shown_as_it_was_sent(bench: Bench) -> None:
    made = put(bench, tags={"a": "b"})
    assert made == bench.owner.get("jobs/one")
    assert (made["properties"]["status"], made["properties"]["command"]) == ("Queued", "echo hi")
    assert made["properties"]["services"]["Studio"]["endpoint"] == f"{BASE}/jobs/one"
    assert bench.owner.get("jobs/one.command")["properties"] is None


def test_a_put_is_idempotent_and_another_job_of_the_name_refused(bench: Bench) -> None:
    put(bench)
    assert put(bench, displayName="renamed")["properties"]["displayName"] == "renamed"
    assert bench.owner.refusal("PUT", "jobs/one", command(command="echo other"))[0] == 409


def test_jobs_are_listed_by_tag_type_and_property(bench: Bench) -> None:
    put(bench, "one", tags={"team": "a"}, properties={"k": "v"})
    put(bench, "two", tags={"team": "b"})

    def names(query: str) -> list[str]:
        return [one["name"] for one in bench.owner.get(f"jobs?{query}")["value"]]

    assert (names(""), names("jobType=Pipeline")) == (["two", "one"], [])
    assert (names("tag=team"), names("tag=team=a"), names("tag=none")) == (["two", "one"], ["one"], [])
    assert (names("properties=k=v"), names("properties=k=w")) == (["one"], [])


FILES = {
    "command": """
command: python a.py
code: src
environment: azureml:local@latest
compute: azureml:local
""",
    "sweep": """
type: sweep
trial: {command: python a.py, code: src, environment: azureml:local@latest}
search_space: {x: {type: choice, values: [1, 2]}}
objective: {goal: minimize, primary_metric: loss}
sampling_algorithm: grid
compute: azureml:local
""",
    "pipeline": """
type: pipeline
settings: {default_compute: azureml:local}
jobs:
  one:
    {command: python a.py, code: src, environment: azureml:local@latest, compute: azureml:local, display_name: Say Hi}
""",
}


TRY = """
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
name: try
version: 1
inputs: {x: {type: integer}}
command: echo ${{inputs.x}}
environment: azureml:local@latest
"""
SEARCH = """
type: pipeline
name: searching
settings: {default_compute: azureml:local}
jobs:
  search:
    type: sweep
    trial: ./try.yml
    sampling_algorithm: grid
    search_space: {x: {type: choice, values: [1, 2]}}
    objective: {goal: minimize, primary_metric: loss}
    early_termination: {type: bandit, slack_factor: 0.1}
    limits: {max_total_trials: 2, timeout: PT1H}
"""


def test_jobs_of_files_are_listed_and_got_by_the_sdk(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1")
    for name, text in FILES.items():
        (tmp_path / f"{name}.yml").write_text(f"name: {name}\n{text}")
        create(bench.workspace, tmp_path / f"{name}.yml", {})
    with sdk_client(bench) as client:
        assert [(job.name, job.type) for job in client.jobs.list()] == [(name, name) for name in reversed(FILES)]
        assert client.jobs.get("command").environment == "local@latest"
    assert bench.owner.get("runs/pipeline.one")["displayName"] == "Say Hi"
    properties = bench.owner.get("jobs/command")["properties"]
    assert properties["codeId"].startswith(f"{workspace_id()}/codes/")
    assert properties["environmentId"] == f"{workspace_id()}/environments/local/labels/latest"


def test_the_trials_of_a_node_are_shown_below_it(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "try.yml").write_text(TRY)
    (tmp_path / "search.yml").write_text(SEARCH)
    create(bench.workspace, tmp_path / "search.yml", {})
    records = bench.workspace.records
    steps = {step.name: step for step in bench.workspace.jobs.get("searching").steps}
    best = {BEST_TRIAL: "search.trial_1", BEST_VALUE: 0.5}
    ended = replace(steps["search"], status=StepStatus.COMPLETED, properties=best)
    records.steps.update(ended)
    with sdk_client(bench) as client:
        job = client.jobs.get("searching")
        assert [(name, node.type) for name, node in job.jobs.items()] == [("search", "sweep")]
        assert job.jobs["search"].early_termination.type == "bandit"
        assert [one.name for one in client.jobs.list(parent_job_name="searching")] == ["searching.search"]
        below = list(client.jobs.list(parent_job_name="searching.search"))
        assert [one.name for one in below] == ["searching.search.trial_0", "searching.search.trial_1"]
        assert json.loads(below[1].tags["hyperparameters"]) == {"x": 2}
        child = client.jobs.get("searching.search")
        assert (child.status, child.properties["score"]) == ("Completed", "0.5")
        assert child.properties["best_child_run_id"] == below[1].name
        assert client.jobs.get(below[1].name).status == "NotStarted"


def test_a_job_that_cannot_be_shown_as_sent_hides_no_other(bench: Bench) -> None:
    for name in ("one", "two", "three"):
        put(bench, name)
    records = bench.workspace.records
    records.jobs.update(replace(records.jobs.get("two"), echoes={"azure": {"properties": {"inputs": [7]}}}))
    jobs = bench.owner.get("jobs")["value"]
    assert [job["name"] for job in jobs] == ["three", "two", "one"]
    assert "`mafunzo job show two`" in jobs[1]["properties"]["description"]
    with sdk_client(bench) as client:
        assert [job.name for job in client.jobs.list()] == ["three", "two", "one"]


def test_an_output_is_data_by_itself_once_it_is_there(bench: Bench, tmp_path: Path) -> None:
    put(bench, outputs={"made": {"jobOutputType": "uri_file"}})
    name = "azureml_one_output_data_made"
    assert bench.owner.refusal("GET", f"data/{name}/versions/1")[0] == 404
    (tmp_path / "a.txt").write_text("a")
    artifact = bench.workspace.artifacts.put(tmp_path / "a.txt")
    (step,) = bench.workspace.jobs.get("one").steps
    bench.workspace.records.steps.update(replace(step, status=StepStatus.COMPLETED, outputs={"made": artifact}))
    properties = bench.owner.get(f"data/{name}/versions/1")["properties"]
    assert (properties["dataType"], properties["dataUri"]) == ("uri_file", "azureml://jobs/one/outputs/made")
    with sdk_client(bench) as client:
        assert client.data.get(name, label="latest").version == "1"
    assert bench.owner.refusal("GET", f"data/{name}/versions/2")[0] == 404
    assert bench.owner.get("data")["value"] == []
    file = {"jobInputType": "uri_file", "uri": f"azureml:{name}:1"}
    put(bench, "two", command="cat ${{inputs.file}}", inputs={"file": file})
    assert bench.workspace.jobs.get("two").steps[0].spec.inputs["file"] == ArtifactInput(artifact, "one/made")


def test_a_run_is_renamed_hidden_and_has_its_steps_as_children(bench: Bench) -> None:
    put(bench)
    answer = bench.owner.ask("PATCH", "experiments/exp/runs/one", {"displayName": "new", "hidden": True})
    assert (answer.json()["displayName"], answer.json()["hidden"]) == ("new", True)
    assert bench.owner.get("jobs")["value"] == []
    assert bench.owner.get("jobs?listViewType=ArchivedOnly")["value"][0]["name"] == "one"
    (child,) = bench.owner.get("runs/one/children")["value"]
    assert (child["runId"], child["parentRunId"]) == ("one.command", "one")
    assert bench.owner.get("runs/one.command") == child
    assert bench.owner.get("runs/one/serviceinstances/0") == {"instances": {}}


def test_a_job_is_canceled_as_a_whole(bench: Bench) -> None:
    put(bench)
    status, message = bench.owner.refusal("POST", "jobs/one.command/cancel")
    assert (status, message) == (400, "one.command is a step of job one, and ends with it: cancel that job.")
    assert bench.owner.ask("POST", "jobs/one/cancel").status_code == 200
    assert bench.owner.get("jobs/one")["properties"]["status"] in ("CancelRequested", "Canceled")


def test_only_a_job_that_has_ended_is_deleted(bench: Bench) -> None:
    put(bench)
    assert bench.owner.refusal("DELETE", "jobs/one")[0] == 409
    ended(bench)
    assert bench.owner.ask("DELETE", "jobs/one").status_code == 200
    assert bench.owner.refusal("GET", "jobs/one")[0] == 404


def test_the_first_look_at_a_job_that_has_ended_lets_its_log_be_read(bench: Bench) -> None:
    put(bench)
    ended(bench)
    first, second = (bench.owner.get("runs/one/details") for _ in range(2))
    assert (first["status"], second["status"]) == ("Finalizing", "Completed")
    log = first["logFiles"]["user_logs/std_log.txt"].removeprefix(BASE)
    assert bench.stranger.ask("GET", log).status_code == 200
    assert bench.stranger.ask("GET", log.replace("/one?", "/two?")).status_code == 401
    assert bench.stranger.ask("GET", log.partition("?")[0]).status_code == 401


def test_the_data_of_a_run_names_its_outputs_once_it_has_ended(bench: Bench) -> None:
    put(bench, outputs={"out": {"jobOutputType": "uri_folder"}})

    def data(name: str) -> Any:
        return bench.owner.ask("POST", "rundata", {"runId": name}).json()["runMetadata"]

    assert data("one") == {"runId": "one", "status": "Queued", "outputs": {}}
    assert data("one.command")["status"] == "NotStarted"
    ended(bench)
    assert (data("one")["status"], data("one.command")["status"]) == ("Completed", "Completed")
    assert bench.owner.refusal("POST", "rundata", {"runId": "none"})[0] == 404


def test_the_id_of_an_output_is_resolved_to_its_place(bench: Bench) -> None:
    id = "azureml://jobs/one/outputs/out"
    answer = bench.owner.ask("POST", "dataversion/batchGetResolvedUris", {"values": [id]}).json()
    assert answer["values"][id]["uri"].endswith("/datastores/workspaceblobstore/paths/azureml/one/out")
    status, message = bench.owner.refusal("POST", "dataversion/batchGetResolvedUris", {"values": ["azureml:m:1"]})
    assert status == 400 and message.startswith("'azureml:m:1' isn't the id of a job's output")


def test_a_job_s_page_says_how_to_look_at_it_and_nothing_of_it(bench: Bench) -> None:
    answer = bench.stranger.ask("GET", "/jobs/one&wsid=x")
    assert (answer.status_code, "mafunzo job show one\n" in answer.text) == (200, True)
    assert bench.stranger.ask("GET", "/jobs/<script>").status_code == 404


def test_a_range_of_a_log_is_sent_alone(bench: Bench) -> None:
    put(bench)
    ended(bench)
    log = bench.owner.get("runs/one/details")["logFiles"]["user_logs/std_log.txt"].removeprefix(BASE)
    whole = bench.stranger.ask("GET", log)
    size = len(whole.content)
    assert size and (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    part = bench.stranger.http.get(log, headers={"Range": "bytes=3-7"})
    assert (part.status_code, part.content) == (206, whole.content[3:8])
    assert part.headers["content-range"] == f"bytes 3-7/{size}"
    nothing = bench.stranger.http.get(log, headers={"Range": f"bytes={size}-"})
    assert (nothing.status_code, nothing.headers["content-range"]) == (416, f"bytes */{size}")
