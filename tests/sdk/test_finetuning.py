"""The job kind `finetuning` of the Azure SDK: one real fine-tuning, the model that it registers, and what is refused of one."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.finetuning import FineTuningTaskType, create_finetuning_job
from azure.core.exceptions import HttpResponseError

from mafunzo import Workspace

ROWS = (Path(__file__).parent.parent.parent / "examples" / "conversations.jsonl").read_text().splitlines()
HYPERPARAMETERS = {
    "apply_lora": "true",
    "learning_rate": "5e-4",
    "max_steps": "1",
    "warmup_steps": "0",
    "max_seq_length": "128",
    "generation_rows": "2",
    "forgetting_prompts": "2",
}


@pytest.fixture(scope="module")
def ask(client: Any, registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Submit a fine-tuning job, some of whose hyperparameters and settings are others."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "train.jsonl").write_text("\n".join(ROWS[:40]) + "\n")
    (folder / "validation.jsonl").write_text("\n".join(ROWS[40:]) + "\n")
    model = registry.models.get("tiny-llama", label="latest")

    def ask(hyperparameters: dict[str, str] | None = None, **given: Any) -> Any:
        made = create_finetuning_job(
            task=given.pop("task", FineTuningTaskType.CHAT_COMPLETION),
            model=model.id,
            training_data=str(folder / "train.jsonl"),
            validation_data=str(folder / "validation.jsonl"),
            hyperparameters={**HYPERPARAMETERS, **(hyperparameters or {})},
            output_model_name_prefix=given.pop("output_model_name_prefix", "tuned-by-kind"),
            display_name="by kind",
            experiment_name="kinds",
            instance_types=["Standard_NC6s_v3"],
            job_tier="Standard",
            tags={"team": "a"},
            **given,
        )
        return client.jobs.create_or_update(made)

    return ask


@pytest.fixture(scope="module")
def begun(ask: Callable[..., Any], client: Any) -> Any:
    """A job that was taken, and cancelled: what it was to be is looked at, not what it makes.

    Its model has a name of its own: where its steps' outputs are in the cache, the job is quicker than its cancellation.
    """
    made = ask(output_model_name_prefix="begun")
    client.jobs.begin_cancel(made.name).wait()
    return made


@pytest.fixture(scope="module")
def job(ask: Callable[..., Any], client: Any) -> tuple[Any, str]:
    """A job that completed, and what `jobs.stream` showed of it."""
    made, told = ask(), io.StringIO()
    with contextlib.redirect_stdout(told):
        client.jobs.stream(made.name)
    return made, told.getvalue()


@pytest.mark.slow
def test_it_trains_and_shows_how(job, client):
    assert "step finetune running" in job[1]
    assert client.jobs.get(job[0].name).status == "Completed"


def test_it_comes_back_as_it_was_asked(begun, client):
    found = client.jobs.get(begun.name)
    assert (type(found).__name__, found.task) == ("CustomModelFineTuningJob", "chatCompletion")
    assert (found.display_name, found.experiment_name, found.tags) == ("by kind", "kinds", {"team": "a"})
    assert found.hyperparameters == HYPERPARAMETERS
    assert found.model.path == "azureml://registries/azureml/models/tiny-llama/versions/1"
    assert found.training_data.path.endswith("/train.jsonl")
    assert found.resources.instance_types == ["Standard_NC6s_v3"]
    assert found.name in {one.name for one in client.jobs.list()}


def test_its_hyperparameters_reached_the_step(begun, workspace: Workspace):
    steps = {step.name: step for step in workspace.jobs.get(begun.name).steps}
    values = {name: getattr(value, "value", value) for name, value in steps["finetune"].spec.inputs.items()}
    assert (values["learning_rate"], values["max_steps"]) == (5e-4, 1)
    assert values["per_device_train_batch_size"] == 4  # as the model's card says


@pytest.mark.slow
def test_its_output_is_a_registered_model(job, client):
    (found,) = client.models.list("tuned-by-kind")
    assert (found.version, found.type) == ("1", "mlflow_model")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param({"task": "TextCompletion"}, "The task that runs here is ChatCompletion", id="another task"),
        pytest.param({"hyperparameters": {"learning_rte": "1e-4"}}, "Did you mean learning_rate?", id="a typo"),
        pytest.param({"hyperparameters": {"num_train_epochs": "0"}}, "num_train_epochs is '0'", id="out of range"),
        pytest.param({"hyperparameters": {"train_file_path": "x"}}, "Name these as the job's model", id="said twice"),
        pytest.param({"compute": "nowhere"}, "no compute has that name", id="no compute"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(ask, given, told):
    with pytest.raises(HttpResponseError) as refused:
        ask(**given)
    assert told in str(refused.value)
