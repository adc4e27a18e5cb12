"""Environments as the Azure SDK sends them: what comes back, what is read from the conda file, and what is refused."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from azure.ai.ml.entities import BuildContext
from azure.ai.ml.entities import Environment as SdkEnvironment

from mafunzo import Workspace
from mafunzo.control.store.environment_catalog import curated_environments
from mafunzo.entities.asset import REGISTRY_SCOPE, WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.environment import Environment, environment_facts, environment_of
from mafunzo.entrypoints.azure.wire.environment import environment_body, environment_from_body, request_from_body
from mafunzo.errors import Conflict, InvalidParameter, NotSupported

IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"
AT = datetime(2026, 1, 2, tzinfo=UTC)


def sent(**given: Any) -> dict[str, Any]:
    """Return the body that the SDK sends for an environment of its own."""
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


def read(*dependencies: Any, **more: Any) -> Environment:
    """Read an environment of the SDK's with these dependencies."""
    conda = {"name": "x", "channels": ["conda-forge"], "dependencies": list(dependencies), **more}
    return environment_from_body("mine", "3", sent(image=IMAGE, conda_file=conda))


def text_of(conda_file: str) -> dict[str, Any]:
    return {"properties": {"image": IMAGE, "condaFile": conda_file}}


def test_the_pip_part_python_and_conda_s_own_packages_are_told_apart() -> None:
    found = read(
        *("python=3.10", "pip=23.0", "conda-forge::numpy=1.21.2"),
        {"pip": ["scikit-learn~=1.5", "mlflow== 2.4.1", "inference-schema[numpy-support]==1.3.0"]},
        variables={"LEVEL": "3", "EMPTY": ""},
    )
    assert found == Environment(
        name="mine",
        version="3",
        packages=("scikit-learn~=1.5", "mlflow== 2.4.1", "inference-schema[numpy-support]==1.3.0"),
        python="3.10",
        variables={"LEVEL": "3", "EMPTY": ""},
        image=IMAGE,
        conda_packages=("conda-forge::numpy=1.21.2",),
    )


def test_an_image_alone_asks_for_no_packages() -> None:
    assert environment_from_body("mine", "3", sent(image=IMAGE)) == Environment("mine", "3", image=IMAGE)


@pytest.mark.parametrize(
    ("entry", "python", "allowed", "refused"),
    [
        ("python=3.10", "3.10", (3, 10), (3, 11)),
        ("python==3.8.5", "3.8.5", (3, 8), (3, 9)),
        ("python 3.9", "3.9", (3, 9), (3, 10)),
        ("python=3.10.4=h12debd9_0", "3.10.4", (3, 10), (3, 4)),
        ("python=3.10.*", "3.10.*", (3, 10), (3, 1)),
        ("defaults::python = 3", "3", (3, 13), (2, 7)),
        ("python>=3.9,<3.12", ">=3.9,<3.12", (3, 11), (3, 12)),
        ("Python >3.8, !=3.10, <= 3.11", ">3.8, !=3.10, <= 3.11", (3, 11), (3, 10)),
    ],
)
def test_a_python_is_asked_for_in_conda_s_ways(
    entry: str, python: str, allowed: tuple[int, int], refused: tuple[int, int]
) -> None:
    found = read(entry)
    assert found.python == python and found.conda_packages == ()
    assert found.allows_python(allowed) and not found.allows_python(refused)


def test_any_python_is_allowed_where_none_is_named() -> None:
    assert read("python", "pip").allows_python((3, 14))


@pytest.mark.parametrize(
    "line",
    [
        "torch @ https://example.org/torch-2.0-py3-none-any.whl",
        "https://example.org/tiny-1.0.tar.gz",
        "git+https://example.org/tiny.git@v1#egg=tiny",
        "numpy; python_version < '3.12'",
        "--extra-index-url https://example.org/simple",
        "-f /srv/wheels",
        "--find-links=https://example.org/wheels",
        "--pre",
    ],
)
def test_what_pip_can_find_anywhere_is_taken_as_written(line: str) -> None:
    assert read({"pip": [line]}).packages == (line,)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-r requirements.txt", "reads files that aren't there when the environment is built"),
        ("-rrequirements.txt", "reads files that aren't there"),
        ("--constraint=limits.txt", "reads files that aren't there"),
        ("-e .", "reads files that aren't there"),
        (".", "a local path, which isn't there"),
        ("./dist/tiny.whl", "a local path"),
        ("/home/ann/tiny", "a local path"),
        ("tiny-1.0-py3-none-any.whl", "a local path"),
        ("tiny @ file:///home/ann/tiny", "a local path"),
        ("C:\\tiny", "a local path"),
        ("--find-links wheels", "Name an absolute one, or a URL"),
        ("--no-cache-dir", "expected a requirement, or one of -f, --find-links"),
        ("numpy scipy", "expected a requirement such as numpy>=1.26"),
        ("numpy\nscipy", "expected one requirement an entry"),
        (["numpy"], "pip has a list"),
    ],
)
def test_a_line_that_pip_could_not_install_here_is_refused_with_the_reason(line: Any, told: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        read({"pip": [line]})
    assert len(refused.value.faults) == 1 and told in refused.value.faults[0]
    assert refused.value.param == "condaFile"


def test_all_that_is_wrong_with_a_conda_file_is_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as refused:
        read("python=three", "a[b", {"npm": ["left-pad"]}, {"pip": "numpy"}, ["x"], variables={"a-b": "1"})
    assert refused.value.message == "The conda file of environment 'mine' can't be used."
    assert refused.value.faults == (
        "dependencies has 'a[b', expected a package such as python=3.10, or the list pip.",
        "dependencies has a mapping of npm, expected a package such as python=3.10, or the list pip.",
        "pip is 'numpy', expected a list.",
        "dependencies has a list, expected a package such as python=3.10, or the list pip.",
        "variables has a-b: '1', expected a variable's name and a text.",
        "python is 'three', expected python=3.10 or conditions such as python>=3.9,<3.12.",
    )


@pytest.mark.parametrize(
    ("conda_file", "told"),
    [
        ("dependencies: [", "it isn't YAML: while parsing a flow node"),
        ("[" * 5000, "it isn't YAML: maximum recursion depth"),
        ("!!python/object:os.system {a: b}", "dependencies is missing; there are: a."),
        ("numpy", "it is 'numpy', expected a mapping with the key dependencies."),
        ("dependencies: numpy", "dependencies is 'numpy', expected a list."),
        ("dependancies: [numpy]", "dependencies is missing; there are: dependancies."),
        ("{dependencies: [], variables: [1]}", "variables is a list, expected a mapping."),
        ("dependencies: &a [*a]", "recursive"),
    ],
)
def test_a_file_of_another_shape_is_refused(conda_file: str, told: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        environment_from_body("mine", "3", text_of(conda_file))
    assert told in str(refused.value)


@pytest.mark.parametrize("conda_file", ["", "# nothing", "dependencies:", "{dependencies: [pip], prefix: /x}"])
def test_a_file_may_ask_for_nothing(conda_file: str) -> None:
    assert environment_from_body("mine", "3", text_of(conda_file)).packages == ()


def test_a_conda_file_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="isn't a text"):
        environment_from_body("mine", "3", {"properties": {"condaFile": {"dependencies": []}}})


def test_a_docker_build_is_refused_with_what_to_give_instead() -> None:
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
        return workspace.environments.register_from(request_from_body("small", "1", body), "small", "1")

    with Workspace(tmp_path) as workspace:
        register("humanize")
        assert register("humanize", osType="Linux", properties={}, isArchived=True).is_archived
        with pytest.raises(Conflict, match=r"Environment small:1 exists already, with other content"):
            register("other")
