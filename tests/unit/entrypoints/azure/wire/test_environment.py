"""Environments as the Azure SDK sends them: what comes back, and what is refused."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.store.catalog import curated_environments
from mafunzo.entities.asset import REGISTRY_SCOPE, WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.environment import Environment, environment_facts, environment_of
from mafunzo.entrypoints.azure.wire.environment import environment_body, environment_from_body, request_from_body
from mafunzo.errors import Conflict, InvalidParameter, NotSupported

IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"
AT = datetime(2026, 1, 2, tzinfo=UTC)


def sent(**given: Any) -> dict[str, Any]:
    """Return the body that the SDK sends for an environment of its own."""
    from azure.ai.ml.entities import Environment as SdkEnvironment

    body: dict[str, Any] = SdkEnvironment(name="mine", version="3", **given)._to_rest_object().as_dict()
    return body


def kept(body: dict[str, Any], scope: str = WORKSPACE_SCOPE) -> Asset:
    """Return the asset that keeps what was sent."""
    request = request_from_body("mine", "3", body)
    return Asset(
        AssetKey(scope, AssetType.ENVIRONMENT, "mine", "3"),
        FolderType.CUSTOM_MODEL,
        description=request.description,
        tags=request.tags,
        properties=environment_facts(request.environment),
        created_by="ann",
        created_at=AT,
        echoes=request.echoes,
    )


def text_of(conda_file: str) -> dict[str, Any]:
    return {"properties": {"image": IMAGE, "condaFile": conda_file}}


def test_an_image_alone_asks_for_no_packages() -> None:
    assert environment_from_body("mine", "3", sent(image=IMAGE)) == Environment("mine", "3", image=IMAGE)


def test_a_conda_file_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="isn't a text"):
        environment_from_body("mine", "3", {"properties": {"condaFile": {"dependencies": []}}})


def test_a_docker_build_is_refused_with_what_to_give_instead() -> None:
    from azure.ai.ml.entities import BuildContext

    body = sent(build=BuildContext(path="https://example.org/context", dockerfile_path="Dockerfile"))
    with pytest.raises(NotSupported, match="Give an image and a conda file that lists pip's requirements"):
        environment_from_body("mine", "3", body)


def test_another_system_than_linux_is_refused() -> None:
    with pytest.raises(NotSupported, match="os_type windows"):
        environment_from_body("mine", "3", sent(image=IMAGE, os_type="windows"))


def test_all_that_was_sent_comes_back_and_reads_the_same() -> None:
    body = sent(
        image=IMAGE,
        conda_file={"name": "x", "dependencies": ["python=3.10", {"pip": ["numpy"]}]},
        description="d",
        tags={"team": "a"},
        properties={"k": "v"},
        os_type="linux",
        inference_config={"liveness_route": {"port": 5001, "path": "/"}},
    )
    body["properties"]["unknown"] = [1]
    asset = kept(body)
    shown = environment_body(asset)
    assert body["properties"].items() <= shown["properties"].items()
    assert shown["systemData"]["createdBy"] == "ann"
    assert environment_of(asset) == environment_from_body("mine", "3", body)


def test_the_sdk_reads_its_own_environment_from_the_answer() -> None:
    from azure.ai.ml._restclient.arm_ml_service.models import EnvironmentVersion
    from azure.ai.ml.entities import Environment as SdkEnvironment

    conda = {"name": "x", "dependencies": ["python=3.10", {"pip": ["numpy"]}]}
    asset = kept(sent(image=IMAGE, conda_file=conda, tags={"team": "a"}))
    found = SdkEnvironment._from_rest_object(EnvironmentVersion._deserialize(environment_body(asset), []))
    assert (found.name, found.version, found.image, found.tags) == ("mine", "3", IMAGE, {"team": "a"})
    assert found.conda_file == conda and not found._is_anonymous


def test_what_was_changed_since_wins_over_what_was_sent() -> None:
    asset = kept(sent(image=IMAGE, tags={"old": "1"}))
    shown = environment_body(dataclasses.replace(asset, tags={"new": "2"}, is_archived=True))["properties"]
    assert shown["tags"] == {"new": "2"} and shown["isArchived"] is True


@pytest.mark.parametrize("python", ["", "3.10", ">=3.9,<3.12"])
def test_an_environment_that_nobody_sent_is_shown_as_if_it_had_been(python: str) -> None:
    environment = Environment("mine", "3", ("numpy",), python, {"A": "1"}, IMAGE, ("gcc=12",))
    key = AssetKey(REGISTRY_SCOPE, AssetType.ENVIRONMENT, "mine", "3")
    asset = Asset(key, FolderType.URI_FOLDER, properties=environment_facts(environment))
    assert environment_of(asset) == environment
    shown = environment_body(asset)
    assert environment_from_body("mine", "3", shown) == environment
    assert shown["id"] == "azureml://registries/azureml/environments/mine/versions/3"


@pytest.mark.parametrize("curated", curated_environments(), ids=lambda curated: curated.name)
def test_every_curated_environment_asks_for_what_a_user_s_own_could_ask_for(curated):
    key = AssetKey(REGISTRY_SCOPE, AssetType.ENVIRONMENT, curated.name, curated.version)
    body = environment_body(Asset(key, FolderType.URI_FOLDER, properties=environment_facts(curated)))
    assert environment_from_body(curated.name, curated.version, body) == curated


def test_an_environment_may_come_back_in_other_words(tmp_path):
    conda = "dependencies: [python=3.11, pip, {pip: [%s]}]"

    def register(packages, **more):
        body = {"properties": {"image": "x", "condaFile": conda % packages, **more}}
        return workspace.environments.create(request_from_body("small", "1", body))

    with Workspace(tmp_path) as workspace:
        register("humanize")
        assert register("humanize", osType="Linux", properties={}, isArchived=True).is_archived
        with pytest.raises(Conflict, match=r"Environment small:1 exists already, with other content"):
            register("other")
