"""Where a server is found, and what is said of one that didn't start."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from mafunzo.control.launcher.server_process import address_file, answers, find_server, server_argv, write_address
from mafunzo.control.store.home import Home
from mafunzo.entities.server_address import ServerAddress


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def here() -> ServerAddress:
    """The address of this process, as version 0.1.0 knew it: its start moves with the clock, so it is read for each test."""
    return ServerAddress(os.getpid(), psutil.Process().create_time(), 1, "2026-01-02T03:04:05+00:00", 2)


def test_a_server_that_runs_is_found_by_a_file_for_its_user_only(home: Home, here: ServerAddress) -> None:
    assert find_server(home) is None
    write_address(home, here)
    assert find_server(home) == here
    assert address_file(home).stat().st_mode & 0o777 == 0o600


def test_the_file_of_a_server_that_was_killed_does_not_count(home: Home, here: ServerAddress) -> None:
    write_address(home, replace(here, pid_start=here.pid_start - 60))
    assert find_server(home) is None


def test_a_server_of_the_version_before_is_found(home: Home, here: ServerAddress) -> None:
    facts = asdict(here)
    facts["azure_port"] = facts.pop("https_port")
    address_file(home).write_text(json.dumps(facts))
    assert find_server(home) == here


def test_where_nothing_listens_nothing_answers(here: ServerAddress) -> None:
    assert not answers(here)


def test_a_server_is_started_by_its_module_for_its_home_and_ports(home: Home) -> None:
    argv = server_argv(home, 8080, 8443, "0.0.0.0")
    assert argv[1:5] == ["-m", "mafunzo.entrypoints.serve", "--home", str(home.root)]
    assert argv[5:9] == ["--port", "8080", "--https-port", "8443"] and argv[-2:] == ["--listen", "0.0.0.0"]
