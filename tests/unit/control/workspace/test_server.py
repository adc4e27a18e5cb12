"""Tests of `mafunzo.control.workspace.server`: the loops of one home, and where its server is found."""

import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mafunzo import Workspace
from mafunzo.control.launcher.server_process import find_server
from mafunzo.control.workspace.server import announced, loops_of
from mafunzo.entities.server_address import ServerAddress


def own_address() -> ServerAddress:
    return ServerAddress(os.getpid(), psutil.Process().create_time(), 8080, "2026-01-01T00:00:00+00:00", 8443)


def test_a_server_is_found_until_it_ends_whatever_ends_it(tmp_path: Path) -> None:
    with Workspace(tmp_path / "home", port=0) as workspace:
        address = own_address()
        with pytest.raises(KeyError), announced(workspace, address):
            assert find_server(workspace.home) == address
            raise KeyError
        assert find_server(workspace.home) is None


@pytest.mark.parametrize("moved_s", [-86400.0, -3.0, 3.0, 3600.0])
def test_a_clock_that_was_set_makes_no_stranger_of_the_server(tmp_path: Path, moved_s: float) -> None:
    with Workspace(tmp_path / "home", port=0) as workspace:
        address = own_address()
        began_otherwise = replace(address, pid_start=address.pid_start + moved_s)
        with announced(workspace, began_otherwise):
            assert find_server(workspace.home) == began_otherwise


def test_in_an_empty_home_both_loops_find_nothing_to_do(tmp_path: Path) -> None:
    with Workspace(tmp_path / "home", port=0) as workspace:
        scheduler, supervisor = loops_of(workspace, lambda job, step: {}, ("/bin/false",))
        assert supervisor.worker == ("/bin/false",)
        assert supervisor.tick() is False
        assert not scheduler.tick()
