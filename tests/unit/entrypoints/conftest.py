"""A home of its own for each test: the command line over it, and the workspace that fills it. No command starts a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.server_address import ServerAddress
from tests.support.command_line import Shell

ADDRESS = ServerAddress(pid=4711, pid_start=1.0, port=8080, started_at="2026-01-01T00:00:00+00:00", https_port=8443)


@pytest.fixture(autouse=True)
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The homes of which a command started the server; it seems to answer at `ADDRESS`."""
    homes: list[Path] = []

    def up(workspace: Workspace) -> ServerAddress:
        homes.append(workspace.home.root)
        return ADDRESS

    monkeypatch.setattr(Workspace, "up", up)
    return homes


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


@pytest.fixture
def workspace(shell: Shell) -> Iterator[Workspace]:
    with Workspace(shell.home, port=0) as opened:
        yield opened
