"""Jobs and steps as runs of the run history."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mafunzo.entities.job import Job, JobStatus, LiteralInput, Step, StepSpec, StepStatus
from mafunzo.entities.sweep import BEST_TRIAL, BEST_VALUE, Distribution, Goal, Sweep
from mafunzo.entrypoints.azure.wire.run import (
    child_body,
    child_run_body,
    children_of,
    kind_of,
    run_body,
    run_data,
    run_details,
    status_of,
)


def made(kind: str, **more: Any) -> Job:
    echoes = {"azure": {"properties": {"jobType": kind}}}
    return Job("j", "name", "exp", "c:1", echoes=echoes, created_at=datetime(2026, 1, 2, tzinfo=UTC), **more)


def test_a_commands_log_is_called_as_the_sdk_looks_for_it() -> None:
    assert list(run_details(made("Command"), "log")["logFiles"]) == ["user_logs/std_log.txt"]
    assert list(run_details(made("Pipeline"), "log")["logFiles"]) == ["logs/azureml/executionlogs.txt"]
    assert (kind_of(made("Command")), kind_of(made("Pipeline"))) == ("Command", "Pipeline")


def test_a_step_is_a_run_under_its_job_and_has_no_properties_as_a_resource() -> None:
    error = {"message": "it broke", "faults": ["why"]}
    step = Step("j", StepSpec("a.b", "c:1", "code", "true"), StepStatus.FAILED, error=error)
    assert child_body(step)["name"] == "j.a.b" and child_body(step)["properties"] is None
    run = child_run_body(made("Pipeline"), step)
    assert (run["parentRunId"], run["status"], run["displayName"]) == ("j", "Failed", "a.b")
    assert "it broke" in run["error"]["error"]["message"]


def test_a_trial_tells_its_values() -> None:
    sweep = Sweep(
        "loss", Goal.MINIMIZE, {"lr": Distribution("uniform", (0.01, 0.9)), "n": Distribution("choice", (1, 2, 3))}
    )
    spec = StepSpec("trial_0", "c:1", "", "", inputs={"lr": LiteralInput(0.5), "n": LiteralInput(2)})
    job = Job("s", "", "", "", sweep=sweep)
    assert child_run_body(job, Step("s", spec))["tags"] == {"hyperparameters": '{"lr": 0.5, "n": 2}'}


def test_a_sweep_of_a_pipeline_has_its_trials_below_it_and_names_the_best() -> None:
    sweep = Sweep("loss", Goal.MINIMIZE, {"lr": Distribution("uniform", (0.01, 0.9))})
    trial = Step("j", StepSpec("look.trial_0", "c:1", "", "", inputs={"lr": LiteralInput(0.5)}, trial_of="look"))
    properties = {BEST_TRIAL: "look.trial_0", BEST_VALUE: 0.25}
    look = Step("j", StepSpec("look", "c:1", "", "", sweep=sweep), properties=properties)
    other = Step("j", StepSpec("other", "c:1", "", ""))
    steps, job = [trial, look, other], made("Pipeline")
    assert (children_of(steps, None), children_of(steps, look)) == ([look, other], [trial])
    child = child_run_body(job, trial, steps)
    assert (child["parentRunId"], child["rootRunId"]) == ("j.look", "j")
    assert child["tags"] == {"hyperparameters": '{"lr": 0.5}'}
    parent = child_run_body(job, look, steps)
    assert (parent["parentRunId"], parent["tags"]) == ("j", {})
    assert parent["properties"]["best_child_run_id"] == "j.look.trial_0" and parent["properties"]["score"] == "0.25"


def test_a_sweep_of_a_pipeline_runs_while_its_trials_do() -> None:
    sweep = Sweep("loss", Goal.MINIMIZE, {})
    look = Step("j", StepSpec("look", "c:1", "", "", sweep=sweep))
    begun = replace(look, started_at=datetime(2026, 1, 2, tzinfo=UTC))
    assert [status_of(step) for step in (look, begun, replace(begun, status=StepStatus.COMPLETED))] == [
        "NotStarted",
        "Running",
        "Completed",
    ]


def test_a_job_of_another_entrypoint_is_a_pipeline() -> None:
    assert kind_of(replace(made("Command"), echoes={"other": {}})) == "Pipeline"


@pytest.mark.parametrize(
    ("entity", "word"),
    [
        pytest.param(made("Command"), "Queued", id="a job that waits"),
        pytest.param(
            made("Command", status=JobStatus.RUNNING, is_cancel_requested=True), "CancelRequested", id="ending"
        ),
        pytest.param(made("Command", status=JobStatus.CANCELED, is_cancel_requested=True), "Canceled", id="ended"),
        *(
            pytest.param(Step("j", StepSpec("s", "c:1", "", ""), status), word, id=f"a step that is {status}")
            for status, word in [
                (StepStatus.WAITING, "NotStarted"),
                (StepStatus.RUNNING, "Running"),
                (StepStatus.CACHED, "Completed"),
                (StepStatus.COMPLETED, "Completed"),
                (StepStatus.SKIPPED, "Canceled"),
            ]
        ),
    ],
)
def test_a_state_has_azure_s_word(entity: Job | Step, word: str) -> None:
    assert status_of(entity) == word


def test_a_step_that_was_reused_names_its_run() -> None:
    step = Step("j", StepSpec("s", "c:1", "", ""), StepStatus.CACHED, reason="same as other/s")
    properties = child_run_body(made("Pipeline"), step)["properties"]
    assert (properties["azureml.isreused"], properties["azureml.reusedrunid"]) == ("true", "other.s")


def test_a_run_says_whether_it_is_hidden_and_when_it_began() -> None:
    run = run_body(made("Command", tags={"a": "b"}, is_archived=True, started_at=datetime(2026, 1, 3, tzinfo=UTC)))
    assert (run["hidden"], run["tags"], run["startTimeUtc"]) == (True, {"a": "b"}, "2026-01-03T00:00:00+00:00")
    assert (run["endTimeUtc"], run["error"], run["runType"]) == (None, None, "azureml.PipelineRun")


def test_outputs_have_ids_and_are_folders() -> None:
    assert run_data("j", "Completed", ["model"])["runMetadata"]["outputs"] == {
        "model": {"assetId": "azureml://jobs/j/outputs/model", "type": "uri_folder"}
    }


@pytest.mark.parametrize(
    ("client", "folder"),
    [
        ("azure-ai-ml/1.35.2 azsdk-python-mgmt/1.0 Python/3.11", "uri_folder"),
        ("azure-ai-ml/1.34.1 azsdk-python-azuremachinelearningworkspaces/unknown Python/3.11", "UriFolder"),
        ("azure-ai-ml/1.28.1", "UriFolder"),
        ("python-requests/2", "uri_folder"),
    ],
)
def test_a_folder_is_called_as_the_client_knows_it(client: str, folder: str) -> None:
    outputs = run_data("j", "Completed", ["model"], client)["runMetadata"]["outputs"]
    assert outputs == {"model": {"assetId": "azureml://jobs/j/outputs/model", "type": folder}}
