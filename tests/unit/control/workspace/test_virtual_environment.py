import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.archive import archive
from mafunzo.control.workspace.virtual_environment import delete_environment, known_environment, known_environments
from mafunzo.entities.asset import AssetType
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
    workspace.environments.register_from(request, name, version)
    return known_environment(workspace.services, f"{name}:{version}")


def build(known):
    """Lay out what the launcher leaves of an environment that it has built."""
    (known.folder / "bin").mkdir(parents=True)
    (known.folder / "bin" / "python").write_text("x" * 100)
    (known.folder / ".ready").write_text("{}")


def names(workspace, **asked):
    return [str(known) for known in known_environments(workspace.services, **asked) if known.is_registered]


def test_environments_are_listed_with_what_was_built_of_them(workspace):
    register(workspace, "hidden", is_anonymous=True)
    build(register(workspace, "small"))
    assert names(workspace) == ["small:1"] and names(workspace, with_hidden=True) == ["small:1", "hidden:1"]
    known = known_environment(workspace.services, "small")
    assert (known.is_built, known.size_bytes) == (True, 102)
    own = known_environment(workspace.services, "local")
    assert (own.folder, own.is_built, own.is_registered) == (None, False, False)


def test_an_unknown_environment_is_told_with_those_that_there_are(workspace):
    register(workspace, "small")
    with pytest.raises(NotFound, match=r"No environment is called 'smal'. There are: .*small"):
        known_environment(workspace.services, "smal")


def test_an_environment_is_deleted_with_what_was_built_of_it(workspace):
    known = register(workspace, "small")
    build(known)
    assert delete_environment(workspace.services, "small:1") == 102
    assert names(workspace) == [] and not known.folder.exists()


def test_what_another_environment_has_too_stays(workspace):
    known = register(workspace, "small")
    register(workspace, "same")
    build(known)
    assert delete_environment(workspace.services, "small") == 0
    assert known_environment(workspace.services, "same").is_built


def test_of_a_curated_environment_only_what_was_built_goes(workspace):
    known = known_environment(workspace.services, "sklearn-1.5")
    build(known)
    assert delete_environment(workspace.services, "sklearn-1.5") == 102
    assert not known_environment(workspace.services, "sklearn-1.5").is_built


def test_an_environment_that_a_component_names_stays(workspace):
    register(workspace, "small")
    component = Component("tell", "2", "command", command="echo")
    source = Source(environment=AssetReference("small", "1"))
    workspace.components.register(ComponentRequest(component=component, source=source))
    with pytest.raises(
        Conflict, match=r"Environment small:1 is named by tell:2, which couldn't run without it. Archive it"
    ):
        delete_environment(workspace.services, "small:1")
    delete_environment(workspace.services, "small:1", is_forced=True)
    assert names(workspace) == []


def test_a_version_or_all_of_a_name_are_archived_and_shown_again(workspace):
    for version in ("1", "2"):
        register(workspace, "small", version)
    assert [asset.version for asset in archive(workspace.services, AssetType.ENVIRONMENT, "small:1")] == ["1"]
    assert names(workspace) == ["small:2"]
    archive(workspace.services, AssetType.ENVIRONMENT, "small")
    assert names(workspace) == []
    archive(workspace.services, AssetType.ENVIRONMENT, "small", is_archived=False)
    assert names(workspace) == ["small:2", "small:1"]
    with pytest.raises(NotFound, match="No environment 'none' is registered"):
        archive(workspace.services, AssetType.ENVIRONMENT, "none")


def test_the_same_environment_may_come_again_and_another_may_not(workspace):
    register(workspace, "small")
    environment = Environment("small", "1", packages=("humanize",), python="3.11", image="x")
    request = EnvironmentRequest(environment=environment, is_archived=True)
    assert workspace.environments.register_from(request, "small", "1").is_archived
    with pytest.raises(Conflict, match=r"Environment small:1 exists already, with other content"):
        register(workspace, "small", packages="other")
