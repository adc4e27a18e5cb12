"""Tests of `mafunzo.control.workspace.environments`: which there are, and what was built of them."""

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace import environments
from mafunzo.entities.asset_request import ComponentRequest, EnvironmentRequest
from mafunzo.entities.component import Component, Source
from mafunzo.entities.environment import Environment
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import Conflict, NotFound


@pytest.fixture
def workspace(tmp_path):
    with Workspace(tmp_path) as opened:
        yield opened


def register(workspace, name, version="1", packages="humanize", is_anonymous=False):
    environment = Environment(name, version, packages=(packages,), python="3.11", image="x")
    request = EnvironmentRequest(environment=environment, is_anonymous=is_anonymous)
    workspace.environments.create(request)
    return workspace.environments.get(f"{name}:{version}")


def build(known):
    """Lay out what the launcher leaves of an environment that it has built."""
    (known.folder / "bin").mkdir(parents=True)
    (known.folder / "bin" / "python").write_text("x" * 100)
    (known.folder / ".ready").write_text("{}")


def names(workspace, **asked):
    return [str(known) for known in workspace.environments.list(**asked) if known.is_registered]


def test_environments_are_listed_with_what_was_built_of_them(workspace):
    register(workspace, "hidden", is_anonymous=True)
    build(register(workspace, "small"))
    assert names(workspace) == ["small:1"] and names(workspace, with_hidden=True) == ["small:1", "hidden:1"]
    known = workspace.environments.get("small")
    assert (known.is_built, known.size_bytes) == (True, 102)
    own = workspace.environments.get("local")
    assert (own.folder, own.is_built, own.is_registered) == (None, False, False)


def test_no_python_is_looked_for_in_a_list_while_nothing_is_built(workspace, monkeypatch):
    known = register(workspace, "small")
    with monkeypatch.context() as patch:
        patch.setattr(environments, "environment_folder", lambda *_: pytest.fail("a Python was looked for"))
        assert names(workspace) == ["small:1"]
    build(known)
    register(workspace, "other", packages="six")
    other, small = (one for one in workspace.environments.list() if one.is_registered)
    assert (small.folder, small.is_built) == (known.folder, True)
    assert (other.folder, other.is_built) == (None, False)


def test_an_unknown_environment_is_told_with_those_that_there_are(workspace):
    register(workspace, "small")
    with pytest.raises(NotFound, match=r"No environment is called 'smal'. There are: .*small"):
        workspace.environments.get("smal")


def test_an_environment_is_deleted_with_what_was_built_of_it(workspace):
    known = register(workspace, "small")
    build(known)
    assert workspace.environments.delete("small:1") == 102
    assert names(workspace) == [] and not known.folder.exists()


def test_what_another_environment_has_too_stays(workspace):
    known = register(workspace, "small")
    register(workspace, "same")
    build(known)
    assert workspace.environments.delete("small") == 0
    assert workspace.environments.get("same").is_built


def test_of_a_curated_environment_only_what_was_built_goes(workspace):
    known = workspace.environments.get("sklearn-1.5")
    build(known)
    assert workspace.environments.delete("sklearn-1.5") == 102
    assert not workspace.environments.get("sklearn-1.5").is_built


def test_an_environment_that_a_component_names_stays(workspace):
    register(workspace, "small")
    component = Component("tell", "2", "command", command="echo")
    source = Source(environment=AssetReference("small", "1"))
    workspace.components.create(ComponentRequest(component=component, source=source))
    with pytest.raises(
        Conflict, match=r"Environment small:1 is named by tell:2, which couldn't run without it. Archive it"
    ):
        workspace.environments.delete("small:1")
    workspace.environments.delete("small:1", is_forced=True)
    assert names(workspace) == []


def test_a_version_or_all_of_a_name_are_archived_and_shown_again(workspace):
    for version in ("1", "2"):
        register(workspace, "small", version)
    assert [asset.version for asset in workspace.environments.archive("small:1")] == ["1"]
    assert names(workspace) == ["small:2"]
    workspace.environments.archive("small")
    assert names(workspace) == []
    workspace.environments.archive("small", is_archived=False)
    assert names(workspace) == ["small:2", "small:1"]
    with pytest.raises(NotFound, match="No environment 'none' is registered"):
        workspace.environments.archive("none")


def test_the_same_environment_may_come_again_and_another_may_not(workspace):
    register(workspace, "small")
    environment = Environment("small", "1", packages=("humanize",), python="3.11", image="x")
    request = EnvironmentRequest(environment=environment, is_archived=True)
    assert workspace.environments.create(request).is_archived
    with pytest.raises(Conflict, match=r"Environment small:1 exists already, with other content"):
        register(workspace, "small", packages="other")


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        pytest.param(
            "./conda.yml", "'./conda.yml' doesn't name an environment. Name one as NAME:VERSION.", id="a text"
        ),
        pytest.param(
            AssetReference("none", "1", registry="any"), "The registry has no environment 'none'", id="registry"
        ),
        pytest.param(AssetReference("none", "1"), "No environment 'none:1'", id="workspace"),
    ],
)
def test_what_a_command_names_and_that_isnt_there_is_told(workspace, reference, told):
    with pytest.raises(NotFound) as refusal:
        workspace.environments.find(reference)
    assert told in refusal.value.message


def test_a_command_finds_its_own_environment_a_curated_one_or_mafunzos(workspace):
    register(workspace, "small")
    assert workspace.environments.find(None) is None
    assert workspace.environments.find(AssetReference("small")).packages == ("humanize",)
    assert workspace.environments.find(AssetReference("sklearn-1.5")).name == "sklearn-1.5"
    (offered,) = workspace.environments.on_offer("sklearn-1.5", "7")
    assert (offered.version, offered.key.scope) == ("7", "registry")
    assert workspace.environments.on_offer("small") == []
    names = [asset.name for asset in workspace.environments.on_offer()]
    assert "sklearn-1.5" in names and not any(name.startswith("AzureML-") for name in names)
