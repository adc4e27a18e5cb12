"""Models, data and environments of the workspace with the Azure SDK, and what of its other nouns there is here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input, MLClient, command
from azure.ai.ml.constants import ListViewType
from azure.ai.ml.entities import (
    AmlCompute,
    AzureBlobDatastore,
    ComputeInstance,
    CronTrigger,
    Data,
    Environment,
    JobSchedule,
    KubernetesCompute,
    Model,
    ServerlessEndpoint,
    WorkspaceConnection,
)
from azure.ai.ml.entities import Workspace as AzureWorkspace
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import ContainerClient

from mafunzo import Workspace


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder of a model of one's own."""
    folder = tmp_path / "weights"
    (folder / "layers").mkdir(parents=True)
    (folder / "layers" / "one.txt").write_text("0.5")
    return folder


def versions(operations: Any, name: str, **view: Any) -> list[str]:
    return [found.version for found in operations.list(name, **view)]


# Models


def test_a_folder_is_registered_as_a_model_and_downloaded_again(client, weights, tmp_path):
    made = client.models.create_or_update(
        Model(name="own", path=str(weights), description="mine", tags={"a": "b"}, properties={})
    )
    assert (made.version, made.type, made.description, made.tags) == ("1", "custom_model", "mine", {"a": "b"})
    assert "/datastores/workspaceblobstore/paths/LocalUpload/" in made.path
    client.models.download("own", version="1", download_path=tmp_path / "to")
    assert (tmp_path / "to" / "own" / "weights" / "layers" / "one.txt").read_text() == "0.5"


def test_a_single_file_is_a_model_too(client, weights, tmp_path):
    client.models.create_or_update(Model(name="file", version="1", path=str(weights / "layers" / "one.txt")))
    client.models.download("file", version="1", download_path=tmp_path / "to")
    assert (tmp_path / "to" / "file" / "one.txt").read_text() == "0.5"


def test_a_model_that_was_registered_here_is_downloaded_from_where_its_address_says(
    client, weights, tmp_path, workspace: Workspace
):
    workspace.models.register(weights, name="local", version="1")
    assert client.models.get("local", version="1").path.endswith("/paths/models/local/1/model")
    client.models.download("local", version="1", download_path=tmp_path / "to")
    assert (tmp_path / "to" / "local" / "model" / "layers" / "one.txt").read_text() == "0.5"
    workspace.models.delete("local:1")
    with pytest.raises(ResourceNotFoundError):
        client.models.get("local", version="1")


def test_an_mlflow_model_has_a_file_that_says_so(client, weights):
    with pytest.raises(HttpResponseError, match="no file MLmodel"):
        client.models.create_or_update(Model(name="flow", version="1", type="mlflow_model", path=str(weights)))
    (weights / "MLmodel").write_text("flavors: {}\n")
    flavors = {"python_function": {"python_version": "3.8"}}
    asked = Model(name="flow", version="1", type="mlflow_model", path=str(weights), flavors=flavors, stage="Staging")
    made = client.models.create_or_update(asked)
    assert (made.type, made.stage, made.flavors["python_function"]) == (
        "mlflow_model",
        "Staging",
        {"python_version": "3.8"},
    )


def test_versions_of_a_model_count_up_and_never_change(client, weights):
    for version in ("1", "2"):
        assert client.models.create_or_update(Model(name="counted-model", path=str(weights))).version == version
    client.models.create_or_update(Model(name="counted-model", version="0", path=str(weights)))
    assert client.models.get("counted-model", label="latest").version == "0"  # the newest by its moment
    (weights / "more.txt").write_text("more")
    with pytest.raises(
        HttpResponseError, match=r"Asset paths cannot be updated\. Model counted-model:1 exists already"
    ):
        client.models.create_or_update(Model(name="counted-model", version="1", path=str(weights)))


@pytest.mark.parametrize("name", ["my model", "ünï", "a:b", "-lead", "a" * 256])
def test_a_name_that_azure_does_not_take_is_refused(client, weights, name):
    with pytest.raises(HttpResponseError, match=r"The name of model is '.*', expected 1 to 255 letters"):
        client.models.create_or_update(Model(name=name, version="1", path=str(weights)))


# What every kind of asset does

MADE: dict[str, Callable[[Path], Any]] = {
    "models": lambda folder: Model(name="kept", version="1", path=str(folder)),
    "data": lambda folder: Data(name="kept", version="1", type="uri_folder", path=str(folder)),
    "environments": lambda _: Environment(name="kept", version="1", image="an-image"),
    "components": lambda _: (
        command(
            name="kept",
            version="1",
            command="echo ${{inputs.word}}",
            inputs={"word": Input(type="string")},
            environment="azureml://registries/azureml/environments/minimal/versions/1",
        ).component
    ),
}


@pytest.mark.parametrize("noun", MADE)
def test_one_version_and_all_of_a_name_are_archived_and_restored(client, weights, noun):
    operations = getattr(client, noun)
    operations.create_or_update(MADE[noun](weights))
    for which in ({"version": "1"}, {"label": "latest"}, {}):
        operations.archive("kept", **which)
        assert versions(operations, "kept") == []
        assert versions(operations, "kept", list_view_type=ListViewType.ARCHIVED_ONLY) == ["1"]
        assert "kept" not in {found.name for found in operations.list()}
        operations.restore("kept", **({"version": "1"} if "label" in which else which))
        assert versions(operations, "kept") == ["1"]
        assert "kept" in {found.name for found in operations.list()}


@pytest.mark.parametrize("noun", ["models", "data", "environments"])
def test_what_is_said_of_a_version_may_change(client, weights, noun):
    operations = getattr(client, noun)
    operations.create_or_update(MADE[noun](weights))
    found = operations.get("kept", version="1")
    found.description, found.tags = "changed", {"stage": "trial"}
    operations.create_or_update(found)
    again = operations.get("kept", version="1")
    assert (again.description, again.tags) == ("changed", {"stage": "trial"})


def test_a_table_is_data_as_its_file_says(client, weights):
    (weights / "rows.csv").write_text("a,b\n1,2\n")
    (weights / "MLTable").write_text(
        "paths:\n  - file: ./rows.csv\ntransformations:\n  - read_delimited:\n      delimiter: ','\n"
    )
    made = client.data.create_or_update(Data(name="table", version="1", type="mltable", path=str(weights)))
    assert (client.data.get("table", version="1").type, made.type) == ("mltable", "mltable")


# Curated environments


@pytest.mark.parametrize("wanted", [{"label": "latest"}, {"version": "30"}])
def test_azures_curated_environments_are_found_in_the_workspace(client, wanted):
    found = client.environments.get("AzureML-sklearn-1.5", **wanted)
    assert (found.name, found.version) == ("AzureML-sklearn-1.5", wanted.get("version", "1"))
    assert "scikit-learn" in str(found.conda_file)
    assert "AzureML-sklearn-1.5" not in {one.name for one in client.environments.list()}


def test_a_name_that_nobody_curated_is_not_found(client):
    with pytest.raises(ResourceNotFoundError):
        client.environments.get("AzureML-nothing", version="1")


def test_jobs_name_curated_environments_in_every_way(client, registry, workspace: Workspace):
    ways = [
        "AzureML-sklearn-1.5@latest",
        "azureml:AzureML-sklearn-1.5:30",
        "azureml://registries/azureml/environments/sklearn-1.5/versions/30",
        "azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
        client.environments.get("AzureML-sklearn-1.5", label="latest"),
        registry.environments.get("sklearn-1.5", label="latest"),
    ]
    for way in ways:
        made = client.jobs.create_or_update(command(command="true", environment=way))
        client.jobs.begin_cancel(made.name)
        (step,) = workspace.jobs.get(made.name).steps
        assert step.spec.runtime is not None
        assert any(package.startswith("scikit-learn") for package in step.spec.runtime.packages), way


# Computes, datastores, the workspace


def test_a_cluster_has_a_tier_and_is_rescaled(client):
    asked = AmlCompute(
        name="scaled", size="Standard_DS3_v2", tier="low_priority", max_instances=2, idle_time_before_scale_down=300
    )
    client.compute.begin_create_or_update(asked).result()
    found = client.compute.get("scaled")
    assert (found.tier, found.min_instances, found.max_instances) == ("low_priority", 0, 2)
    assert found.idle_time_before_scale_down == 300
    found.max_instances, found.idle_time_before_scale_down = 5, 60
    client.compute.begin_update(found).result()
    found = client.compute.get("scaled")
    assert (found.max_instances, found.idle_time_before_scale_down, found.tier) == (5, 60, "low_priority")
    assert list(client.compute.list_nodes("scaled")) == []
    assert list(client.compute.list_usage()) == []
    assert "local" in {size.name for size in client.compute.list_sizes()}
    client.compute.begin_delete("scaled").wait()
    with pytest.raises(ResourceNotFoundError):
        client.compute.get("scaled")


def test_the_homes_datastores_are_listed(client):
    assert client.datastores.get_default().name == "workspaceblobstore"
    assert "workspaceblobstore" in {found.name for found in client.datastores.list()}
    with pytest.raises(ResourceNotFoundError, match="No datastore is called 'other'"):
        client.datastores.get("other")


def test_azures_own_credential_opens_the_datastore(client, credential):
    store = client.datastores.get("workspaceblobstore")
    url = f"https://{store.account_name}.blob.{store.endpoint}"
    container = ContainerClient(url, store.container_name, credential=credential)
    container.upload_blob("by-token/a.txt", b"a", overwrite=True)
    assert container.download_blob("by-token/a.txt").readall() == b"a"
    assert [found.name for found in container.list_blobs("by-token/")] == ["by-token/a.txt"]


def test_there_is_one_workspace(client):
    assert client.workspaces.get("mafunzo").location == "local"
    for scope in ("resource_group", "subscription"):
        assert [found.name for found in client.workspaces.list(scope=scope)] == ["mafunzo"]
    assert list(client.workspaces.list(filtered_kinds=["hub", "project"])) == []
    with pytest.raises(ResourceNotFoundError, match="No workspace is called 'other'"):
        client.workspaces.get("other")


# What isn't done here

NETWORK = "Networks aren't managed here"
REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "schedules.list": (lambda of: of.schedules.list(), "Schedules aren't run here"),
    "schedules.create": (
        lambda of: of.schedules.begin_create_or_update(
            JobSchedule(name="s", trigger=CronTrigger(expression="0 0 * * *"), create_job="azureml:job")
        ),
        "Submit the job when it is to run",
    ),
    "serverless_endpoints.create": (
        lambda of: of.serverless_endpoints.begin_create_or_update(
            ServerlessEndpoint(name="s", model_id="azureml://registries/azureml/models/tiny-llama")
        ),
        "Serverless endpoints aren't run here",
    ),
    "serverless_endpoints.get_keys": (lambda of: of.serverless_endpoints.get_keys("s"), "Serverless endpoints"),
    "marketplace_subscriptions.list": (
        lambda of: of.marketplace_subscriptions.list(),
        "Marketplace subscriptions aren't needed here",
    ),
    "connections.list": (lambda of: of.connections.list(), "Connections to other services aren't kept here"),
    "connections.create": (
        lambda of: of.connections.create_or_update(
            WorkspaceConnection(name="c", type="python_feed", target="t", credentials=None)
        ),
        "in its environment variables",
    ),
    "indexes.get": (lambda of: of.indexes.get("i", version="1"), "Indexes aren't built here"),
    "feature_sets.list": (lambda of: of.feature_sets.list(), "Feature stores aren't kept here"),
    "feature_store_entities.list": (
        lambda of: of.feature_store_entities.list(),
        "Feature stores aren't kept here",
    ),
    "datastores.create": (
        lambda of: of.datastores.create_or_update(
            AzureBlobDatastore(name="other", account_name="account", container_name="container")
        ),
        "Files live in this home: upload them",
    ),
    "datastores.delete": (lambda of: of.datastores.delete("workspaceblobstore"), "Others can't be added or deleted"),
    "compute.stop": (lambda of: of.compute.begin_stop("any"), "Clusters aren't started, stopped"),
    "compute.kubernetes": (
        lambda of: of.compute.begin_attach(KubernetesCompute(name="k8s", resource_id="/subscriptions/x")),
        "of the type Kubernetes; only AmlCompute",
    ),
    "compute.instance": (
        lambda of: of.compute.begin_create_or_update(ComputeInstance(name="mine", size="Standard_DS3_v2")),
        "of the type ComputeInstance; only AmlCompute",
    ),
    "workspaces.create": (
        lambda of: of.workspaces.begin_create(AzureWorkspace(name="other", location="local")),
        "This home has one workspace",
    ),
    "workspaces.update": (
        lambda of: of.workspaces.begin_update(of.workspaces.get("mafunzo")),
        "This home has one workspace",
    ),
    "workspaces.delete": (
        lambda of: of.workspaces.begin_delete("mafunzo", delete_dependent_resources=False),
        "This home has one workspace",
    ),
    "workspaces.get_keys": (lambda of: of.workspaces.get_keys(), "The workspace has no keys of its own"),
    "workspaces.sync_keys": (lambda of: of.workspaces.begin_sync_keys(), "no keys to synchronize"),
    "workspaces.diagnose": (
        lambda of: of.workspaces.begin_diagnose("mafunzo"),
        "`mafunzo job show NAME` and the server's log",
    ),
    "workspaces.provision_network": (lambda of: of.workspaces.begin_provision_network(), NETWORK),
    "workspace_outbound_rules.list": (lambda of: of.workspace_outbound_rules.list("mafunzo"), NETWORK),
}
"""By operation of the client: a call of it, and what the refusal tells."""


@pytest.mark.parametrize("operation", REFUSED)
def test_what_is_not_done_here_is_refused_by_a_sentence_that_says_what_to_do(client: MLClient, operation: str):
    call, told = REFUSED[operation]
    with pytest.raises(HttpResponseError) as refused:
        answer = call(client)
        answer.result() if hasattr(answer, "result") else list(answer or ())
    assert told in str(refused.value)
    assert refused.value.error is not None and refused.value.error.code == "OperationNotSupported"
