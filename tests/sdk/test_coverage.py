"""What `tools/azure_coverage.yml` says of the Azure SDK's operations is so: nothing is left out, and each error is the server's."""

import ast
import inspect
import os
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure.ai.ml import MLClient, command, entities
from azure.ai.ml.data_transfer import Database
from azure.ai.ml.entities import (
    AzureBlobDatastore,
    AzureMLOnlineInferencingServer,
    CapabilityHost,
    CommandComponent,
    CronTrigger,
    Data,
    DataImport,
    Environment,
    FeatureSet,
    FeatureSetSpecification,
    FeatureStore,
    FeatureStoreEntity,
    FqdnDestination,
    GitSource,
    Index,
    IndexModelConfiguration,
    JobSchedule,
    KubernetesCompute,
    MarketplaceSubscription,
    Model,
    ModelPackage,
    PatTokenConfiguration,
    Registry,
    ServerlessEndpoint,
    Workspace,
    WorkspaceConnection,
)

ROOT = Path(__file__).parent.parent.parent
COVERAGE = yaml.safe_load((ROOT / "tools" / "azure_coverage.yml").read_text())
WORKS = {
    f"{noun}.{name}": test for noun, parts in COVERAGE.items() for name, test in (parts.get("works") or {}).items()
}
REFUSED = {
    f"{noun}.{name}": group["error"]
    for noun, parts in COVERAGE.items()
    for group in parts.get("refused") or ()
    for name in group["methods"]
}
FEATURES = """
source: {type: parquet, path: azureml://datastores/workspaceblobstore/paths/x, timestamp_column: {name: t}}
features: [{name: a, type: string}]
index_columns: [{name: b, type: string}]
"""
FEATURE_COLUMN = entities.DataColumn(name="a", type="string")
RULE = FqdnDestination(name="rule", destination="example.org")
TEMPLATE = entities.DeploymentTemplate(name="t", version="1", environment="azureml:some:1")
GIT = GitSource(url="https://example.org/x.git", branch_name="main", connection_id="c")
EMBEDDINGS = IndexModelConfiguration(
    api_base=None, api_key=None, api_version=None, connection_name="c", connection_type=None, model_name="m",
    deployment_name="d", model_kwargs={},
)  # fmt: skip

CALLS: dict[str, Callable[[Any], Any]] = {
    "workspaces.begin_create": lambda c: c.workspaces.begin_create(Workspace(name="other", location="local")),
    "workspaces.begin_delete": lambda c: c.workspaces.begin_delete("mafunzo", delete_dependent_resources=False),
    "workspaces.begin_diagnose": lambda c: c.workspaces.begin_diagnose("mafunzo"),
    "workspaces.begin_provision_network": lambda c: c.workspaces.begin_provision_network(workspace_name="mafunzo"),
    "workspaces.begin_sync_keys": lambda c: c.workspaces.begin_sync_keys("mafunzo"),
    "workspaces.begin_update": lambda c: c.workspaces.begin_update(Workspace(name="mafunzo", description="x")),
    "workspaces.get_keys": lambda c: c.workspaces.get_keys("mafunzo"),
    "capability_hosts.begin_create_or_update": lambda c: c.capability_hosts.begin_create_or_update(
        CapabilityHost(name="h")
    ),
    "capability_hosts.begin_delete": lambda c: c.capability_hosts.begin_delete("h"),
    "capability_hosts.get": lambda c: c.capability_hosts.get("h"),
    "workspace_outbound_rules.begin_create": lambda c: c.workspace_outbound_rules.begin_create("mafunzo", RULE),
    "workspace_outbound_rules.begin_remove": lambda c: c.workspace_outbound_rules.begin_remove("mafunzo", "rule"),
    "workspace_outbound_rules.begin_update": lambda c: c.workspace_outbound_rules.begin_update("mafunzo", RULE),
    "workspace_outbound_rules.get": lambda c: c.workspace_outbound_rules.get("mafunzo", "rule"),
    "workspace_outbound_rules.list": lambda c: c.workspace_outbound_rules.list("mafunzo"),
    "registries.begin_create": lambda c: c.registries.begin_create(
        Registry(name="other", location="local", replication_locations=[])
    ),
    "registries.begin_delete": lambda c: c.registries.begin_delete(name="azureml"),
    "feature_stores.begin_create": lambda c: c.feature_stores.begin_create(FeatureStore(name="fs")),
    "feature_stores.begin_delete": lambda c: c.feature_stores.begin_delete("fs", delete_dependent_resources=False),
    "feature_stores.begin_provision_network": lambda c: c.feature_stores.begin_provision_network(
        feature_store_name="fs"
    ),
    "feature_stores.begin_update": lambda c: c.feature_stores.begin_update(FeatureStore(name="fs")),
    "feature_stores.get": lambda c: c.feature_stores.get("fs"),
    "feature_sets.archive": lambda c: c.feature_sets.archive("f", "1"),
    "feature_sets.begin_backfill": lambda c: c.feature_sets.begin_backfill(name="f", version="1", data_status=["None"]),
    "feature_sets.begin_create_or_update": lambda c: c.feature_sets.begin_create_or_update(
        FeatureSet(
            name="f", version="1", entities=["azureml:e:1"], specification=FeatureSetSpecification(path="features")
        )
    ),
    "feature_sets.get": lambda c: c.feature_sets.get("f", "1"),
    "feature_sets.get_feature": lambda c: c.feature_sets.get_feature("f", "1", feature_name="a"),
    "feature_sets.list": lambda c: c.feature_sets.list(),
    "feature_sets.list_features": lambda c: c.feature_sets.list_features("f", "1"),
    "feature_sets.restore": lambda c: c.feature_sets.restore("f", "1"),
    "feature_store_entities.archive": lambda c: c.feature_store_entities.archive("e", "1"),
    "feature_store_entities.begin_create_or_update": lambda c: c.feature_store_entities.begin_create_or_update(
        FeatureStoreEntity(name="e", version="1", index_columns=[FEATURE_COLUMN])
    ),
    "feature_store_entities.get": lambda c: c.feature_store_entities.get("e", "1"),
    "feature_store_entities.list": lambda c: c.feature_store_entities.list(),
    "feature_store_entities.restore": lambda c: c.feature_store_entities.restore("e", "1"),
    "connections.create_or_update": lambda c: c.connections.create_or_update(
        WorkspaceConnection(
            name="c", type="git", target="https://example.org", credentials=PatTokenConfiguration(pat="x")
        )
    ),
    "connections.delete": lambda c: c.connections.delete("c"),
    "connections.get": lambda c: c.connections.get("c"),
    "connections.list": lambda c: c.connections.list(),
    "compute.begin_attach": lambda c: c.compute.begin_attach(
        KubernetesCompute(name="k8s", resource_id="/subscriptions/x/y", namespace="n")
    ),
    "compute.begin_restart": lambda c: c.compute.begin_restart("local"),
    "compute.begin_start": lambda c: c.compute.begin_start("local"),
    "compute.begin_stop": lambda c: c.compute.begin_stop("local"),
    "compute.enable_sso": lambda c: c.compute.enable_sso(name="local"),
    "models.package": lambda c: c.models.package(
        "m", "1", ModelPackage(target_environment="t", inferencing_server=AzureMLOnlineInferencingServer())
    ),
    "deployment_templates.archive": lambda c: c.deployment_templates.archive("t", version="1"),
    "deployment_templates.create_or_update": lambda c: c.deployment_templates.create_or_update(TEMPLATE),
    "deployment_templates.delete": lambda c: c.deployment_templates.delete("t", version="1"),
    "deployment_templates.get": lambda c: c.deployment_templates.get("t", version="1"),
    "deployment_templates.list": lambda c: c.deployment_templates.list(),
    "deployment_templates.restore": lambda c: c.deployment_templates.restore("t", version="1"),
    "datastores.create_or_update": lambda c: c.datastores.create_or_update(
        AzureBlobDatastore(name="d", account_name="a", container_name="c")
    ),
    "datastores.delete": lambda c: c.datastores.delete("d"),
    "datastores.mount": lambda c: c.datastores.mount("workspaceblobstore", mount_point="mounted"),
    "data.import_data": lambda c: c.data.import_data(
        DataImport(
            name="d",
            path="azureml://datastores/workspaceblobstore/paths/x",
            source=Database(connection="azureml:c", query="select 1"),
        )
    ),
    "data.list_materialization_status": lambda c: c.data.list_materialization_status("d"),
    "data.mount": lambda c: c.data.mount("azureml:d:1", mount_point="mounted"),
    "schedules.begin_create_or_update": lambda c: c.schedules.begin_create_or_update(
        JobSchedule(name="s", trigger=CronTrigger(expression="0 0 * * *"), create_job="job")
    ),
    "schedules.begin_delete": lambda c: c.schedules.begin_delete("s"),
    "schedules.begin_disable": lambda c: c.schedules.begin_disable("s"),
    "schedules.begin_enable": lambda c: c.schedules.begin_enable("s"),
    "schedules.get": lambda c: c.schedules.get("s"),
    "schedules.list": lambda c: c.schedules.list(),
    "schedules.trigger": lambda c: c.schedules.trigger("s"),
    "serverless_endpoints.begin_create_or_update": lambda c: c.serverless_endpoints.begin_create_or_update(
        ServerlessEndpoint(name="s", model_id="azureml://registries/azureml/models/m")
    ),
    "serverless_endpoints.begin_delete": lambda c: c.serverless_endpoints.begin_delete("s"),
    "serverless_endpoints.begin_regenerate_keys": lambda c: c.serverless_endpoints.begin_regenerate_keys("s"),
    "serverless_endpoints.get": lambda c: c.serverless_endpoints.get("s"),
    "serverless_endpoints.get_keys": lambda c: c.serverless_endpoints.get_keys("s"),
    "serverless_endpoints.list": lambda c: c.serverless_endpoints.list(),
    "marketplace_subscriptions.begin_create_or_update": lambda c: c.marketplace_subscriptions.begin_create_or_update(
        MarketplaceSubscription(name="s", model_id="azureml://registries/azureml/models/m")
    ),
    "marketplace_subscriptions.begin_delete": lambda c: c.marketplace_subscriptions.begin_delete("s"),
    "marketplace_subscriptions.get": lambda c: c.marketplace_subscriptions.get("s"),
    "marketplace_subscriptions.list": lambda c: c.marketplace_subscriptions.list(),
    "indexes.build_index": lambda c: c.indexes.build_index(
        name="i", embeddings_model_config=EMBEDDINGS, input_source=GIT, input_glob="*"
    ),
    "indexes.create_or_update": lambda c: c.indexes.create_or_update(
        Index(name="i", path="azureml://datastores/workspaceblobstore/paths/x")
    ),
    "indexes.get": lambda c: c.indexes.get("i", version="1"),
    "indexes.list": lambda c: c.indexes.list(),
    "azure_openai_deployments.list": lambda c: c.azure_openai_deployments.list("c"),
}
"""How each operation that is refused is asked for."""


def download_component(client: Any) -> Any:
    """The SDK looks for the code of one at `blob.core.windows.net` only."""
    environment = Environment(name="listed", version="1", image="x")
    made = CommandComponent(name="fetched", version="1", command="ls", code="features", environment=environment)
    client.components.create_or_update(made)
    return client.components.download("fetched", version="1", download_path="to")


CALLS["components.download"] = download_component


def operations() -> Iterator[str]:
    """Yield every public operation of the clients that an `MLClient` has: `jobs.list`."""
    for noun, declared in vars(MLClient).items():
        if not isinstance(declared, property):
            continue
        client = typing.get_type_hints(declared.fget).get("return")
        if inspect.isclass(client) and ".operations." in client.__module__:
            yield from (f"{noun}.{name}" for name, found in inspect.getmembers(client, callable) if name[0] != "_")


def test_every_operation_of_the_sdk_is_told_once():
    found = list(operations())
    assert len(found) > 150
    assert sorted(found) == sorted([*WORKS, *REFUSED])


@pytest.mark.parametrize("operation", WORKS)
def test_what_works_is_shown_by_a_test_that_asks_for_it(operation):
    file, _, name = WORKS[operation].partition("::")
    text = (ROOT / file).read_text()
    functions = {found.name: found for found in ast.parse(text).body if isinstance(found, ast.FunctionDef)}
    fixtures = [functions[one.arg] for one in functions[name].args.args if one.arg in functions]
    asked = "".join(ast.get_source_segment(text, one) or "" for one in (functions[name], *fixtures))
    assert f".{operation}(" in text or f".{operation.partition('.')[2]}(" in asked


def test_every_refused_operation_is_asked_for():
    assert sorted(CALLS) == sorted(REFUSED)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with what a feature set is specified by."""
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "FeatureSetSpec.yaml").write_text(FEATURES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def data(client: Any) -> None:
    """What operations on data name."""
    client.data.create_or_update(
        Data(name="d", version="1", type="uri_folder", path=str(ROOT / "tests/sdk/files/rows"))
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operation", REFUSED)
def test_what_is_refused_says_so(operation, client, data, beside):
    with pytest.raises(Exception) as refused:
        answer = CALLS[operation](client)
        list(answer) if hasattr(answer, "__iter__") else answer.result()
    assert REFUSED[operation].removesuffix("...") in str(refused.value)


# What no other test asks for


@pytest.fixture(scope="module")
def plain(client: Any) -> Any:
    return client.environments.create_or_update(Environment(name="listed", version="1", image="x"))


def test_what_there_is_is_listed(client):
    assert {store.name for store in client.datastores.list()} == {"workspaceblobstore", "workspaceartifactstore"}
    assert client.datastores.get_default().name == "workspaceblobstore"
    assert isinstance(list(client.online_endpoints.list()), list)
    assert list(client.compute.list_nodes("local")) == list(client.compute.list_usage()) == []
    assert list(client.feature_stores.list()) == []
    assert list(client.feature_sets.list_materialization_operations("f", "1")) == []


def test_an_environment_is_hidden_and_shown_again(plain, client):
    def listed() -> set[str]:
        return {environment.name for environment in client.environments.list()}

    assert "listed" in listed()
    client.environments.archive("listed", version="1")
    assert "listed" not in listed() and client.environments.get("listed", "1").image == "x"
    client.environments.restore("listed", version="1")
    assert "listed" in listed()


def test_a_job_and_a_component_are_checked_without_being_made(plain, client):
    before = len(list(client.jobs.list()))
    assert client.jobs.validate(command(command="echo", environment="azureml:listed:1")).passed
    component = CommandComponent(name="unmade", command="echo", environment="azureml:listed:1")
    assert client.components.validate(component).passed
    assert len(list(client.jobs.list())) == before and "unmade" not in {one.name for one in client.components.list()}


def test_a_job_has_no_services_of_its_own(plain, client):
    job = client.jobs.create_or_update(command(command="echo", environment="azureml:listed:1"))
    assert not client.jobs.show_services(job.name)


def test_a_component_is_prepared_for_signing(client, tmp_path):
    (tmp_path / "main.py").write_text("print('hello')")
    client.components.prepare_for_sign(CommandComponent(name="signed", command="python main.py", code=str(tmp_path)))
    assert "main.py" in (tmp_path / "catalog.json").read_text()


def test_an_evaluator_is_a_model_with_properties(client, tmp_path):
    (tmp_path / "flow.flex.yaml").write_text("entry: main:evaluate")
    properties = {"is-promptflow": "true", "is-evaluator": "true", "of": "tests"}
    asked = Model(name="judge", version="1", path=str(tmp_path), type="custom_model", properties=properties)
    client.evaluators.create_or_update(asked)
    assert client.evaluators.get("judge", version="1").properties["of"] == "tests"
    assert [one.version for one in client.evaluators.list("judge")] == ["1"]
    os.makedirs(tmp_path / "to")
    client.evaluators.download("judge", version="1", download_path=tmp_path / "to")
    assert [path.read_text() for path in (tmp_path / "to").rglob("flow.flex.yaml")] == ["entry: main:evaluate"]
