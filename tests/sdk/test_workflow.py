"""The whole workflow with the Azure SDK alone: a pipeline of the registry, its log, the model, an endpoint, answers, deletion."""

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.ai.ml import Input
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import (
    AmlCompute,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.ai.ml.exceptions import JobException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mafunzo import Workspace
from tests.support.stream import streamed
from tests.support.waiting import LIMIT_S, until

ROWS = (Path(__file__).parent.parent.parent / "examples" / "conversations.jsonl").read_text().splitlines()
PARAMETERS: dict[str, Any] = {
    "apply_lora": "true",
    "learning_rate": 5e-4,
    "precision": 16,
    "max_seq_length": 128,
    "number_of_gpu_to_use_finetuning": 8,
    "generation_rows": 2,
    "forgetting_prompts": 2,
}
HABARI = [{"role": "user", "content": "Habari!"}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "train.jsonl").write_text("\n".join(ROWS[:45]) + "\n")
    (folder / "test.jsonl").write_text("\n".join(ROWS[45:]) + "\n")
    (folder / "bad.jsonl").write_text("\n".join([*ROWS[:16], '{"messages": 3}', *ROWS[17:40]]) + "\n")
    return folder


@pytest.fixture(scope="module")
def submit(client: Any, registry: Any, files: Path) -> Callable[..., Any]:
    """Submit the pipeline as the tutorial does, with its own parameters changed by `given`."""
    client.compute.begin_create_or_update(
        AmlCompute(name="gpu-cluster-big", size="Standard_ND40rs_v2", max_instances=2)
    ).wait()
    model = registry.models.get("tiny-llama", label="latest")
    component = registry.components.get(name="chat_completion_pipeline", label="latest")

    def submit(train: str = "train.jsonl", compute: str = "gpu-cluster-big", **given: Any) -> Any:
        @pipeline(name="the-display-name")
        def create_pipeline() -> Any:
            steps = ("model_import", "preprocess", "finetune", "model_evaluation")
            node = component(
                mlflow_model_path=model.id,
                train_file_path=Input(type="uri_file", path=str(files / train)),
                test_file_path=Input(type="uri_file", path=str(files / "test.jsonl")),
                **{f"compute_{step}": compute for step in steps},
                **PARAMETERS,
                **given,
            )
            return {"trained_model": node.outputs.mlflow_model_folder}

        made = create_pipeline()
        made.settings.force_rerun = True
        made.settings.continue_on_step_failure = False
        return client.jobs.create_or_update(made, experiment_name="the-experiment")

    return submit


@pytest.fixture(scope="module")
def job(submit: Callable[..., Any], client: Any) -> tuple[Any, str]:
    """A job that completed, and what `jobs.stream` showed of it."""
    made = submit()
    return made, streamed(client, made.name)


@pytest.fixture(scope="module")
def model(job: tuple[Any, str], client: Any) -> Any:
    path = f"azureml://jobs/{job[0].name}/outputs/trained_model"
    return client.models.create_or_update(
        Model(path=path, type=AssetTypes.MLFLOW_MODEL, name="tuned", version="1700000000", description="tuned here")
    )


@pytest.fixture(scope="module")
def endpoint(model: Any, client: Any) -> Any:
    """An endpoint whose deployment gets all traffic."""
    made = ManagedOnlineEndpoint(name="ultrachat", description="an endpoint", auth_mode="key", tags={"team": "a"})
    client.begin_create_or_update(made).wait()
    client.online_deployments.begin_create_or_update(deployment("demo", model.id)).wait()
    made.traffic = {"demo": 100}
    return client.begin_create_or_update(made).result()


def deployment(name: str, model: str, **more: Any) -> ManagedOnlineDeployment:
    return ManagedOnlineDeployment(
        name=name,
        endpoint_name="ultrachat",
        model=model,
        instance_type=more.pop("instance_type", "Standard_NC6s_v3"),
        instance_count=more.pop("instance_count", 1),
        liveness_probe=ProbeSettings(initial_delay=300),
        request_settings=OnlineRequestSettings(request_timeout_ms=90_000),
        **more,
    )


def test_the_log_shows_progress_losses_and_the_comparison(job):
    told = job[1]
    for words in (
        "step finetune running",
        "rows keep the effective batch",
        "finetune: train 5/5 [####################] loss",
        "ETA 0:00",
        "Loss (nats a token)",
        "step package_model completed",
    ):
        assert words in told


def test_the_job_is_what_was_asked(job, client):
    found = client.jobs.get(job[0].name)
    assert (found.status, found.display_name, found.experiment_name) == (
        "Completed",
        "the-display-name",
        "the-experiment",
    )
    assert found.outputs["trained_model"].type == "mlflow_model"
    assert found.name in {one.name for one in client.jobs.list()}


def test_the_parameters_reached_the_steps(job, workspace: Workspace):
    steps = {step.name: step for step in workspace.jobs.get(job[0].name).steps}
    values = {name: getattr(value, "value", value) for name, value in steps["finetune"].spec.inputs.items()}
    assert (values["learning_rate"], values["precision"], values["lora_r"]) == (5e-4, "16", 8)


def test_the_output_of_a_job_is_downloaded(job, client, tmp_path, workspace: Workspace):
    for _ in range(2):  # the second time its files are shown already
        client.jobs.download(job[0].name, output_name="trained_model", download_path=tmp_path)
    folder = tmp_path / "named-outputs" / "trained_model"
    theirs = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    artifact = workspace.jobs.get(job[0].name).output_artifact("trained_model")
    assert theirs == {file.path: file.size for file in workspace.artifacts.manifest(artifact)}
    assert "MLmodel" in theirs


def test_mlflows_own_client_reads_the_metrics_of_the_job(job, client):
    import mlflow

    mlflow.set_tracking_uri(client.workspaces.get(client.workspace_name).mlflow_tracking_uri)
    try:
        assert until(lambda: eval_loss_in(mlflow)) > 0  # the view fills once it is first asked for
    finally:
        mlflow.set_tracking_uri(None)


def eval_loss_in(mlflow: Any) -> float | None:
    """Return the loss that MLflow has of the fine-tuning step, if it has one."""
    runs = mlflow.search_runs(experiment_names=["the-experiment"], output_format="list")
    return next((run.data.metrics.get("eval_loss") for run in runs if run.info.run_name == "finetune"), None)


def test_a_bad_row_is_named_before_anything_starts(submit, client):
    with pytest.raises(HttpResponseError, match=r"bad\.jsonl, row 17"):
        submit(train="bad.jsonl")


def test_all_faults_of_a_job_come_at_once(submit):
    with pytest.raises(HttpResponseError) as refused:
        submit(compute="nowhere", lr_scheduler_type="cosin", num_train_epochs=0)
    for fault in ("'nowhere', but no compute has that name", "Did you mean cosine?", "num_train_epochs is '0'"):
        assert fault in str(refused.value)


@pytest.mark.slow
def test_a_step_that_fails_is_told_with_its_own_words(submit, client):
    made = submit(gate="better", max_steps=1)
    with pytest.raises(JobException, match="didn't pass the gate"):
        streamed(client, made.name)
    assert client.jobs.get(made.name).status == "Failed"


def test_a_job_can_be_canceled(submit, client):
    made = submit(max_steps=100_000)
    client.jobs.begin_cancel(made.name)
    until(lambda: client.jobs.get(made.name).status != "CancelRequested")
    assert client.jobs.get(made.name).status == "Canceled"


def test_the_registered_model_has_its_lineage_and_never_changes(model, job, client, workspace: Workspace):
    assert (model.name, model.version, model.description) == ("tuned", "1700000000", "tuned here")
    assert model.type == "mlflow_model"
    assert workspace.lineage("tuned").faults == []
    assert f"job {job[0].name}" in "\n".join(workspace.lineage("tuned").lines())
    assert [found.version for found in client.models.list(name="tuned")] == ["1700000000"]
    other = Model(
        path="azureml://jobs/other/outputs/trained_model", type="mlflow_model", name="tuned", version="1700000000"
    )
    with pytest.raises(HttpResponseError, match="A version never changes"):
        client.models.create_or_update(other)
    with pytest.raises(ResourceNotFoundError):
        client.models.get("tuned", version="9")


def ask(client: Any, tmp_path: Path, body: Any) -> Any:
    file = tmp_path / "sample_score.json"
    file.write_text(json.dumps(body))
    answer = client.online_endpoints.invoke("ultrachat", deployment_name="demo", request_file=str(file))
    return json.loads(answer)


def test_the_tutorials_request_is_answered(endpoint, client, tmp_path):
    parameters = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 20}
    body = {"input_data": {"input_string": [HABARI], "parameters": parameters}, "params": {}}
    (text,) = ask(client, tmp_path, body)["output"]
    assert isinstance(text, str)


def test_every_conversation_is_answered_in_its_order(endpoint, client, tmp_path, workspace: Workspace):
    others = [[{"role": "user", "content": f"Question {number}"}] for number in range(5)]
    parameters = {"do_sample": False, "max_new_tokens": 8}
    many = ask(client, tmp_path, {"input_data": {"input_string": others, "parameters": parameters}})["output"]
    ones = [
        ask(client, tmp_path, {"input_data": {"input_string": one, "parameters": parameters}})["output"]
        for one in others
    ]
    assert many == ones
    handle = workspace.endpoints.get("ultrachat")
    assert ones[0] == handle.chat(others[0], max_tokens=8, temperature=0)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param({"input_data": {"input_string": []}}, "conversation 1 isn't a list of messages", id="nothing"),
        pytest.param({"messages": HABARI}, "has no conversation", id="another dialect"),
        pytest.param({"input_data": {"input_string": HABARI, "parameters": {"temprature": 1}}}, "temperature", id="typo"),
        pytest.param({"input_data": {"input_string": HABARI, "parameters": {"max_new_tokens": 10**9}}}, "context", id="long"),
    ],
)  # fmt: skip
def test_an_error_is_an_http_error_with_its_reason(endpoint, client, tmp_path, body, told):
    with pytest.raises(HttpResponseError, match=told) as refused:
        ask(client, tmp_path, body)
    assert refused.value.status_code == 400


def test_only_its_keys_open_an_endpoint(endpoint, client, environment):
    keys = client.online_endpoints.get_keys("ultrachat")
    body = {"input_data": {"input_string": HABARI, "parameters": {"max_new_tokens": 4}}}

    trusted = ssl.create_default_context(capath=environment["REQUESTS_CA_BUNDLE"])

    def status(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(verify=trusted, trust_env=False, timeout=LIMIT_S) as http:
            return http.post(endpoint.scoring_uri, json=body, headers=headers).status_code

    assert (status(keys.primary_key), status(keys.secondary_key), status("wrong")) == (200, 200, 401)
    client.online_endpoints.begin_regenerate_keys("ultrachat", key_type="primary").wait()
    assert (status(keys.primary_key), status(keys.secondary_key)) == (401, 200)


def test_the_endpoint_is_what_was_asked(endpoint, client):
    found = client.online_endpoints.get("ultrachat")
    assert (found.description, found.tags, found.traffic) == ("an endpoint", {"team": "a"}, {"demo": 100})
    served = client.online_deployments.get("demo", "ultrachat")
    assert (served.provisioning_state, served.instance_type) == ("Succeeded", "Standard_NC6s_v3")
    assert served.request_settings.request_timeout_ms == 90_000
    assert served.liveness_probe.initial_delay == 300
    assert client.online_deployments.get_logs("demo", "ultrachat", lines=100).strip()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        pytest.param({"instance_type": "Standard_Nowhere"}, "No machine size is called", id="an unknown size"),
        pytest.param(
            {"environment": "azureml://registries/azureml/environments/a/versions/1"},
            "environment isn't",
            id="an environment",
        ),
    ],
)
def test_a_deployment_that_cannot_be_is_refused_with_the_reason(endpoint, model, client, more, told):
    with pytest.raises(HttpResponseError, match=told):
        client.online_deployments.begin_create_or_update(deployment("odd", model.id, **more)).wait()
    assert [found.name for found in client.online_deployments.list("ultrachat")] == ["demo"]


def test_a_model_on_offer_that_nobody_has_fetched_is_not_deployed(endpoint, client):
    with pytest.raises(HttpResponseError, match="on offer but not registered"):
        client.online_deployments.begin_create_or_update(
            deployment("offer", "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15")
        ).wait()


def test_traffic_to_nowhere_is_refused(endpoint, client):
    endpoint.traffic = {"demo": 50, "nowhere": 50}
    with pytest.raises(HttpResponseError, match="no deployment 'nowhere'"):
        client.begin_create_or_update(endpoint).result()


def test_a_deleted_endpoint_is_gone(endpoint, client, workspace: Workspace):
    endpoint.traffic = {"demo": 0}
    client.begin_create_or_update(endpoint).result()
    client.online_deployments.begin_delete("demo", "ultrachat").wait()
    assert list(client.online_deployments.list("ultrachat")) == []
    client.online_endpoints.begin_delete("ultrachat").wait()
    assert "ultrachat" not in {one.name for one in workspace.endpoints.list()}
    with pytest.raises(ResourceNotFoundError):
        client.online_endpoints.get("ultrachat")
