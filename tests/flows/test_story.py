"""The main story, from conversations to a deleted endpoint, with a tiny model."""

import json
import socket

import pytest
from openai import AuthenticationError, OpenAI

from mafunzo import Workspace
from mafunzo.control.workspace.endpoints import EndpointHandle
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.entities.job import StepStatus
from mafunzo.errors import (
    ArtifactCorrupt,
    Conflict,
    InvalidParameter,
    NotFound,
    NotSupported,
    PortInUse,
    ServingMismatch,
)
from tests.support.tuned_home import CONVERSATIONS, PARAMETERS
from tests.support.waiting import LIMIT_S, http, until


@pytest.fixture(scope="module")
def workspace(tuned: Workspace) -> Workspace:
    return tuned


@pytest.fixture(scope="module")
def job(workspace: Workspace) -> JobHandle:
    """The fine-tuning that has ended."""
    return workspace.jobs.get(workspace.jobs.list()[-1].name)


@pytest.fixture(scope="module")
def endpoint(workspace: Workspace, job: JobHandle) -> EndpointHandle:
    model = workspace.models.register(job, name="greeter")
    return workspace.deploy(model, endpoint="greeter", timeout_s=LIMIT_S)


def test_every_step_completes_and_leaves_its_log(job):
    assert [(step.name, str(step.status)) for step in job.steps] == [
        ("import_model", "completed"),
        ("prepare_data", "completed"),
        ("finetune", "completed"),
        ("evaluate", "completed"),
        ("package_model", "completed"),
    ]
    assert all((job.folder(step.name) / "exit.json").exists() for step in job.steps)
    assert "rows" in job.logs("prepare_data")


def test_the_tuned_model_leaves_as_one_file_for_llama_cpp(workspace, endpoint, tmp_path):
    folder = workspace.models.export("greeter", "gguf", tmp_path / "out")
    assert [path.suffix for path in folder.iterdir() if path.suffix] == [".gguf"]
    with pytest.raises(Conflict, match=r"isn't empty\. Name a new folder"):
        workspace.models.export("greeter", "merged", folder)
    with pytest.raises(NotSupported, match="wasn't exported") as refusal:
        workspace.models.export("greeter", "adapter", tmp_path / "adapter")
    assert "whole weights and no adapter" in str(refusal.value)


def test_metrics_have_the_names_of_the_field(job):
    names = {name for line in job.metrics("finetune")["finetune"] for name in line}
    assert {
        "loss",
        "learning_rate",
        "grad_norm",
        "epoch",
        "eval_loss",
        "train_loss",
        "train_runtime",
        "num_tokens",
    } <= names


def test_the_outputs_are_what_others_read(job, tmp_path):
    folders = {folder.name: folder for folder in job.download(tmp_path)}
    assert (folders["mlflow_model_folder"] / "MLmodel").exists()
    assert (folders["pytorch_model_folder"] / "adapter_model.safetensors").exists()
    assert not (folders["pytorch_model_folder"] / "model.safetensors").exists(), "an adapter is stored without its base"
    assert json.loads((folders["evaluation_result"] / "evaluationResult" / "metrics.json").read_text())
    assert "<html" in (folders["evaluation_result"] / "report.html").read_text()


def test_a_second_run_takes_every_step_from_the_cache_and_says_so(workspace, job):
    again = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, **PARAMETERS).wait(timeout_s=LIMIT_S)
    assert {str(step.status) for step in again.steps} == {"cached"}
    assert all(job.name in step.reason for step in again.steps)
    assert again.output_artifact("mlflow_model_folder") == job.output_artifact("mlflow_model_folder")


def test_a_changed_parameter_runs_its_step_again_and_says_why(workspace, job):
    changed = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, **{**PARAMETERS, "max_seq_length": 96})
    until(lambda: changed.steps[1].status is not StepStatus.WAITING, lambda: changed.steps)
    steps = {step.name: step for step in changed.steps}
    assert str(steps["import_model"].status) == "cached"
    assert "max_seq_length 128 -> 96" in steps["prepare_data"].reason.replace("→", "->")
    changed.cancel()  # why it runs is all that is looked at


def test_the_endpoint_has_proven_that_it_serves_what_was_trained(endpoint):
    (deployment,) = endpoint.deployments
    assert str(deployment.status) == "healthy"
    assert deployment.verification


def test_openai_s_sdk_gets_answers_whole_and_streamed(endpoint):
    client = OpenAI(base_url=endpoint.url, api_key=endpoint.keys[0], max_retries=0)
    asked = {
        "model": "greeter",
        "messages": [{"role": "user", "content": "Habari!"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked)
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
    assert whole.model == "greeter"
    assert "".join(pieces) == whole.choices[0].message.content
    assert whole.usage.completion_tokens <= 8


def test_without_the_key_nothing_is_answered(endpoint):
    body = {"model": "greeter", "messages": [{"role": "user", "content": "Habari!"}]}
    assert http.post(f"{endpoint.url}/chat/completions", json=body).status_code == 401
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=endpoint.url, api_key="wrong", max_retries=0).chat.completions.create(**body)


def test_a_new_key_replaces_the_old_one_at_once(endpoint):
    old = endpoint.keys[1]
    endpoint.regenerate_key("secondary")
    body = {"model": "greeter", "messages": [{"role": "user", "content": "Habari!"}], "max_tokens": 2}
    headers = {"Authorization": f"Bearer {old}"}
    assert http.post(f"{endpoint.url}/chat/completions", json=body, headers=headers).status_code == 401


def test_a_model_that_is_served_cannot_be_deleted(workspace, endpoint):
    with pytest.raises(Conflict, match="greeter/default"):
        workspace.models.delete("greeter:1")


def test_lineage_verifies_every_hash_and_names_a_changed_byte(workspace, job, endpoint):
    lineage = workspace.lineage("greeter")
    assert lineage.faults == []
    text = "\n".join(lineage.lines())
    for word in ("model greeter:1", f"job {job.name}", "conversations.jsonl", "finetune", "learning_rate=0.001"):
        assert word in text
    artifact = job.output_artifact("evaluation_result")
    stored = workspace.artifacts.open_file(artifact, "evaluationResult/metrics.json")
    body = stored.read_bytes()
    stored.chmod(0o644)
    stored.write_bytes(body.replace(b"{", b"[", 1))
    try:
        with pytest.raises(ArtifactCorrupt, match=r"metrics\.json"):
            workspace.lineage("greeter").require_intact()
    finally:
        stored.write_bytes(body)
        stored.chmod(0o444)


@pytest.mark.slow
def test_a_tuned_model_is_the_base_of_the_next(workspace, endpoint):
    job = workspace.finetune(model="greeter", train=CONVERSATIONS, max_steps=2, **PARAMETERS).wait(timeout_s=LIMIT_S)
    second = workspace.models.register(job, name="greeter")
    assert second.version == "2"
    assert second.properties["base_model"]["reference"] == "greeter:1"


@pytest.mark.slow
def test_compare_sets_tuned_against_base(workspace, endpoint, tmp_path):
    job = workspace.compare("greeter:1", CONVERSATIONS).wait(timeout_s=LIMIT_S)
    (folder,) = job.download(tmp_path, "evaluation_result")
    assert (folder / "report.html").exists()


def test_a_deleted_endpoint_is_gone(workspace, job):
    model = workspace.models.register(job, name="short-lived")
    endpoint = workspace.deploy(model, endpoint="short-lived", timeout_s=LIMIT_S)
    key, url = endpoint.keys[0], endpoint.url
    endpoint.delete()
    with pytest.raises(NotFound):
        workspace.endpoints.get("short-lived")
    body = {"model": "short-lived", "messages": [{"role": "user", "content": "Habari!"}]}
    answer = http.post(f"{url}/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code in (401, 404)
    assert workspace.models.delete("short-lived") == 0
    assert job.name in workspace.models.holders(model.artifact).jobs


@pytest.mark.slow
def test_a_refused_deployment_leaves_nothing_and_a_good_one_takes_its_name(workspace, job, endpoint, tmp_path):
    (folder,) = job.download(tmp_path, "mlflow_model_folder")
    (template,) = folder.glob("data/*/chat_template.jinja")
    template.write_text(template.read_text().replace("| trim", "| upper"))
    spoiled = workspace.models.register(folder, name="spoiled")
    with pytest.raises(ServingMismatch, match="token ids differ"):
        workspace.deploy(spoiled, endpoint="fresh", timeout_s=LIMIT_S)
    with pytest.raises(ServingMismatch):
        workspace.deploy(spoiled, endpoint="greeter", deployment="blue", timeout_s=LIMIT_S)
    assert [found.name for found in workspace.endpoints.list()] == ["greeter"]
    assert [found.name for found in endpoint.deployments] == ["default"]
    workspace.deploy("greeter:1", endpoint="greeter", deployment="blue", traffic=30, timeout_s=LIMIT_S)
    assert endpoint.endpoint.traffic_percent == {"default": 70, "blue": 30}
    endpoint.delete_deployment("blue")
    assert endpoint.endpoint.traffic_percent == {"default": 100}
    assert workspace.models.delete("spoiled") > 0


def test_a_first_deployment_with_half_the_traffic_is_refused_before_anything_is_written(workspace, job, endpoint):
    with pytest.raises(InvalidParameter, match="traffic is 50"):
        workspace.deploy("greeter:1", endpoint="half", traffic=50)
    assert [found.name for found in workspace.endpoints.list()] == ["greeter"]


def test_without_a_server_nothing_is_deployed(tmp_path):
    (folder := tmp_path / "model").mkdir()
    (folder / "config.json").write_text("{}")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with Workspace(tmp_path / "home", port=holder.getsockname()[1]) as workspace:
            model = workspace.models.register(folder, name="any")
            with pytest.raises(PortInUse):
                workspace.deploy(model, endpoint="any")
            assert workspace.endpoints.list() == []


def test_all_faults_of_a_request_come_back_at_once_and_nothing_is_written(workspace, tmp_path):
    jobs = len(workspace.jobs.list())
    with pytest.raises(InvalidParameter) as caught:
        workspace.finetune(
            model="no-such-model", train=tmp_path / "missing.jsonl", learning_rate=-1, lora_rr=4, deepspeed_stage="3"
        )
    text = str(caught.value)
    for word in (
        "no-such-model",
        "missing.jsonl",
        "learning_rate is -1",
        "lora_rr",
        "Did you mean lora_r?",
        "deepspeed_stage is '3' while apply_deepspeed",
    ):
        assert word in text
    assert len(workspace.jobs.list()) == jobs
