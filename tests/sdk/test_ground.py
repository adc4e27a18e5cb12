"""What every script of the Azure SDK begins with: the credential, the workspace, the registry, computes and uploads."""

import ast
import json
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute, IdentityConfiguration, KubernetesCompute
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mafunzo import Workspace
from mafunzo.entrypoints.azure.client.environment import workspace_config


def test_config_json_finds_the_workspace(credential: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(workspace_config())))
    client = MLClient.from_config(credential, path=str(tmp_path))
    found = client.workspaces.get()
    assert (found.name, found.location) == ("mafunzo", "local")
    assert [one.name for one in client.workspaces.list()] == ["mafunzo"]


def test_another_workspace_or_registry_is_not_found(credential: Any, registry: Any) -> None:
    identity = dict(workspace_config()) | {"workspace_name": "other"}
    other = MLClient(credential, *identity.values())
    for ask in (lambda: other.workspaces.get(), lambda: list(other.models.list()), lambda: list(other.jobs.list())):
        with pytest.raises(HttpResponseError, match="No workspace is called 'other'"):
            ask()
    identity = dict(workspace_config()) | {"resource_group": "other"}
    with pytest.raises(HttpResponseError, match="No resource group is called 'other'"):
        list(MLClient(credential, *identity.values()).models.list())
    with pytest.raises(HttpResponseError, match="No registry is called 'other'"):
        MLClient(credential, registry_name="other").models.get("tiny-llama", label="latest")


def test_the_names_that_a_script_has_of_azures_lead_to_the_home(credential: Any) -> None:
    client = MLClient(credential, "11111111-1111-1111-1111-111111111111", "the-teams-group", "the-teams-workspace")
    made = client.compute.begin_create_or_update(AmlCompute(name="theirs", size="Standard_NC6")).result()
    assert made.name in [compute.name for compute in client.compute.list()]
    client.compute.begin_delete("theirs").result()


def test_a_registry_model_has_the_tags_that_scripts_read(registry: Any, client: Any) -> None:
    model = registry.models.get("Phi-3-mini-4k-instruct", label="latest")
    assert model.id == f"azureml://registries/azureml/models/{model.name}/versions/{model.version}"
    assert registry.models.get(model.name, version=model.version).id == model.id
    sizes = {size.name for size in client.compute.list_sizes()}
    for tag in ("finetune_compute_allow_list", "inference_compute_allow_list"):
        assert set(ast.literal_eval(model.tags[tag])) <= sizes
    component = registry.components.get("chat_completion_pipeline", label="latest")
    assert set(ast.literal_eval(model.tags["model_specific_defaults"])) <= set(component.inputs)


def test_what_the_registry_does_not_have_is_not_found(registry: Any) -> None:
    with pytest.raises(ResourceNotFoundError, match="no model 'phi-9'"):
        registry.models.get("phi-9", version="1")
    with pytest.raises(ResourceNotFoundError, match="no component 'nonsense'"):
        registry.components.get("nonsense", version="1")


def test_a_cluster_is_made_listed_changed_and_deleted(client: Any, workspace: Workspace) -> None:
    with pytest.raises(ResourceNotFoundError, match="No compute 'big'"):
        client.compute.get("big")
    asked = AmlCompute(name="big", size="standard_nd40rs_v2", tier="Dedicated", max_instances=2, tags={"team": "a"})
    made = client.compute.begin_create_or_update(asked).result()
    assert (made.size, made.max_instances, made.provisioning_state) == ("Standard_ND40rs_v2", 2, "Succeeded")
    made.max_instances = 3
    client.compute.begin_update(made).result()
    assert client.compute.get("big").max_instances == 3
    assert client.compute.get("big").tags == {"team": "a"}
    assert {compute.name for compute in client.compute.list()} >= {"local", "big"}
    assert workspace.computes.find("big").created_by == workspace.user
    fetched = client.compute.get("big")
    fetched.max_instances = 4
    assert client.compute.begin_create_or_update(fetched).result().max_instances == 4
    client.compute.begin_delete("big").wait()
    assert "big" not in {compute.name for compute in client.compute.list()}


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        pytest.param(AmlCompute(name="odd", size="Standard_Nonsense"), "Standard_Nonsense", id="unknown size"),
        pytest.param(AmlCompute(name="odd", size="Standard_NC6", min_instances=3, max_instances=1), "3 and 1", id="counts"),
        pytest.param(KubernetesCompute(name="odd", namespace="n"), "only AmlCompute clusters can be made", id="Kubernetes"),
    ],
)  # fmt: skip
def test_a_cluster_that_cannot_be_is_refused_with_the_reason(client: Any, compute: Any, told: str) -> None:
    with pytest.raises(HttpResponseError, match=told):
        client.compute.begin_create_or_update(compute).result()
    with pytest.raises(ResourceNotFoundError):
        client.compute.get("odd")


def test_a_clusters_identity_and_place_are_those_that_it_was_made_with(client: Any) -> None:
    identity = IdentityConfiguration(type="system_assigned")
    asked = AmlCompute(name="placed", size="Standard_NC6", location="eastus", identity=identity)
    made = client.compute.begin_create_or_update(asked).result()
    assert (made.location, made.identity.type) == ("eastus", "system_assigned")
    assert made.identity.principal_id
    client.compute.begin_delete("placed").wait()


def test_sizes_count_the_gpus_of_this_machine_truly(client: Any, workspace: Workspace) -> None:
    sizes = {size.name: size for size in client.compute.list_sizes()}
    assert sizes["local"].gpus == len(workspace.computes.hardware().gpus)
    assert sizes["Standard_ND40rs_v2"].gpus == 8


def test_a_small_file_and_one_in_blocks_come_back_as_they_were(container: Any) -> None:
    small, large = b"small", bytes(range(256)) * 40_000
    container.upload_blob("a/small.bin", small, metadata={"name": "x"})
    container.get_blob_client("a/large.bin").upload_blob(large, max_concurrency=2, length=len(large))
    blob = container.get_blob_client("a/large.bin")
    blob.upload_blob(large, overwrite=True)
    for name, body in (("a/small.bin", small), ("a/large.bin", large)):
        assert container.download_blob(name).readall() == body
    assert container.download_blob("a/large.bin", offset=1000, length=10).readall() == large[1000:1010]
    assert container.get_blob_client("a/small.bin").get_blob_properties().metadata == {"name": "x"}


def test_blocks_are_put_together(container: Any, workspace: Workspace) -> None:
    from azure.storage.blob import BlobBlock

    blob = container.get_blob_client("blocks.bin")
    for number in range(3):
        blob.stage_block(f"{number:04d}", bytes([number]) * 100_000)
    blob.commit_block_list([BlobBlock(f"{number:04d}") for number in (2, 0, 1)])
    assert blob.download_blob().readall() == b"\x02" * 100_000 + b"\x00" * 100_000 + b"\x01" * 100_000
    assert list((workspace.home.root / "uploads").iterdir()) == []


def test_a_list_goes_on_from_page_to_page(container: Any) -> None:
    names = [f"pages/{number:02d}" for number in range(7)]
    for name in names:
        container.upload_blob(name, b"x")
    pages = [[blob.name for blob in page] for page in container.list_blobs("pages/", results_per_page=3).by_page()]
    assert (pages[0], [name for page in pages for name in page]) == (names[:3], names)
    container.delete_blob(names[0])
    assert [blob.name for blob in container.list_blobs(name_starts_with="pages/")] == names[1:]
    with pytest.raises(ResourceNotFoundError):
        container.download_blob(names[0])


def test_a_signature_of_another_container_is_refused(container: Any) -> None:
    from azure.storage.blob import ContainerClient

    other = ContainerClient(container.url.rsplit("/", 1)[0], "other", credential=container.url.partition("?")[2])
    with pytest.raises(HttpResponseError):
        other.upload_blob("x", b"x")


def test_without_a_token_or_the_secret_nothing_is_told(workspace: Workspace) -> None:
    trusting = ssl.create_default_context(cafile=workspace.home.root / "tls" / "authority.pem")
    url = workspace.up().https_url
    for path in ("/msi/token?resource=x", "/subscriptions/s/resourceGroups/g/providers/x", "/mafunzo.blob.local/c/b"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url + path, context=trusting)
        assert refused.value.code in (401, 403)


def test_with_the_server_down_the_sdk_stops_and_asks_no_other_cloud(environment: dict[str, str]) -> None:
    """Whatever name is looked up or address is connected to, apart from this machine's, ends the client with 77."""
    program = (
        "import os, sys\n"
        "def watch(event, given):\n"
        "    if event in ('socket.getaddrinfo', 'socket.connect'):\n"
        "        host = given[0] if event == 'socket.getaddrinfo' else given[1][0]\n"
        "        if host not in ('127.0.0.1', 'localhost', '::1', None): os._exit(77)\n"
        "sys.addaudithook(watch)\n"
        "from azure.ai.ml import MLClient\n"
        "from azure.identity import DefaultAzureCredential\n"
        "MLClient(DefaultAzureCredential(), 's', 'g', 'w').workspaces.get('w')\n"
    )
    down = {name: value.replace(port_of(environment), "127.0.0.1:9") for name, value in environment.items()}
    done = subprocess.run([sys.executable, "-c", program], env=down | {"PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Unknown cloud" in done.stderr


def port_of(environment: dict[str, str]) -> str:
    return environment["IDENTITY_ENDPOINT"].removeprefix("https://").partition("/")[0]
