"""Tests of `mafunzo.control.workspace.workspace`: where a home and its server are, and in whose name verbs act."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace import workspace as module
from mafunzo.entities.endpoint import DEFAULT_REQUEST_TIMEOUT_S, DEFAULT_START_LIMIT_S
from mafunzo.entities.server_address import ServerAddress
from mafunzo.errors import Conflict, InvalidParameter


@pytest.mark.parametrize(
    ("given", "ports"),
    [
        pytest.param({}, (81, 444), id="as the environment says"),
        pytest.param({"port": 0}, (0, 0), id="any free ones"),
        pytest.param({"port": 0, "https_port": 445}, (0, 445), id="one of them free"),
        pytest.param({"port": 0, "azure_port": 445}, (0, 445), id="by the name of 0.1.0"),
    ],
)
def test_ports_are_the_given_ones_or_the_environments(
    given: dict[str, Any], ports: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAFUNZO_PORT", "81")
    monkeypatch.setenv("MAFUNZO_HTTPS_PORT", "444")
    monkeypatch.delenv("MAFUNZO_AZURE_PORT", raising=False)
    with Workspace(tmp_path, **given) as workspace:
        assert (workspace.port, workspace.https_port) == ports


def test_two_names_of_one_port_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="two names of one port"):
        Workspace(tmp_path, https_port=444, azure_port=444)


def test_a_view_acts_in_its_users_name_and_leaves_the_original_as_it_is(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        view = workspace.acting_as("amina")
        assert (view.user, view.services.user, view.home_user) == ("amina", "amina", workspace.home_user)
        assert view.database is workspace.database
        assert workspace.acting_as("amina").jobs is not workspace.jobs is workspace.jobs
        endpoint = workspace.acting_as("amina").endpoints.create("chat").endpoint
        assert (endpoint.created_by, workspace.endpoints.create("own").endpoint.created_by) == ("amina", workspace.user)
        assert workspace.services.user == workspace.user == workspace.home_user


def test_a_server_that_listens_elsewhere_is_not_taken_for_the_one_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ServerAddress(7, 1.0, 8080, "2026-01-01T00:00:00+00:00")
    monkeypatch.setattr(module, "start_in_background", lambda *arguments, **options: server)
    with Workspace(tmp_path) as workspace:
        assert workspace.up() is server
    with (
        Workspace(tmp_path, listen="0.0.0.0") as workspace,
        pytest.raises(
            Conflict, match=r"runs and listens on 127\.0\.0\.1, not 0\.0\.0\.0\. Stop it first: mafunzo down"
        ),
    ):
        workspace.up()


def test_a_deployment_s_limits_have_the_defaults_of_its_request() -> None:
    defaults = {name: one.default for name, one in inspect.signature(Workspace.deploy).parameters.items()}
    limits = (defaults["timeout_s"], defaults["request_timeout_s"])
    assert limits == (DEFAULT_START_LIMIT_S, DEFAULT_REQUEST_TIMEOUT_S)
