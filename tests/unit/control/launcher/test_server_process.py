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

HERE = ServerAddress(os.getpid(), psutil.Process().create_time(), 1, "2026-01-02T03:04:05+00:00", 2)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_server_that_runs_is_found_by_a_file_for_its_user_only(home: Home) -> None:
    assert find_server(home) is None
    write_address(home, HERE)
    assert find_server(home) == HERE
    assert address_file(home).stat().st_mode & 0o777 == 0o600


def test_the_file_of_a_server_that_was_killed_does_not_count(home: Home) -> None:
    write_address(home, replace(HERE, pid_start=HERE.pid_start - 60))
    assert find_server(home) is None


def test_a_server_of_the_version_before_is_found(home: Home) -> None:
    facts = asdict(HERE)
    facts["azure_port"] = facts.pop("https_port")
    address_file(home).write_text(json.dumps(facts))
    assert find_server(home) == HERE


def test_where_nothing_listens_nothing_answers() -> None:
    assert not answers(HERE)


def test_a_server_is_started_by_its_module_for_its_home_and_ports(home: Home) -> None:
    argv = server_argv(home, 8080, 8443, "0.0.0.0")
    assert argv[1:5] == ["-m", "mafunzo.entrypoints.serve", "--home", str(home.root)]
    assert argv[5:9] == ["--port", "8080", "--https-port", "8443"] and argv[-2:] == ["--listen", "0.0.0.0"]
