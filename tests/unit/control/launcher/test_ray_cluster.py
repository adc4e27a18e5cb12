"""Whether a Ray cluster is reached, told in words, without Ray."""

import json
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from mafunzo.control.launcher import ray_cluster
from mafunzo.control.launcher.local import KEPT_FROM_CHILDREN
from mafunzo.control.launcher.ray_cluster import ClusterTask, address_fault, driver_command, nodes_of, ray_variables
from mafunzo.entities.compute import ClusterNode, Placement
from mafunzo.errors import MissingExtra, Unreachable

TOKEN = "5ec7e7" * 4


@pytest.fixture
def address() -> Iterator[str]:
    """An address at which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def answer(monkeypatch: pytest.MonkeyPatch, stdout: str = "", stderr: str = "", code: int = 0) -> list[dict[str, str]]:
    """Have the process that asks a cluster answer this; return the environments that it gets."""
    environments: list[dict[str, str]] = []

    def run(argv: list[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert TOKEN not in " ".join(argv)
        environments.append(env)
        return subprocess.CompletedProcess(argv, code, stdout, stderr)

    monkeypatch.setattr(ray_cluster, "require_ray", lambda: None)
    monkeypatch.setattr(ray_cluster.subprocess, "run", run)
    return environments


@pytest.mark.parametrize("text", ["10.0.0.1:6379", "head.lab:1", "localhost:65535"])
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    assert address_fault(text) == ""


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1", ":6379", "10.0.0.1:0", "10.0.0.1:70000", "ray://10.0.0.1:10001", "a b:1"]
)
def test_any_other_address_is_a_fault_that_says_what_is_expected(text: str) -> None:
    assert address_fault(text).startswith(f"address is '{text}', expected HOST:PORT of the cluster's head")


def test_the_nodes_are_those_that_the_cluster_has(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environments = answer(
        monkeypatch, "Ray says something\n" + json.dumps([{"host": "10.0.0.1", "cpus": 8, "gpus": 1}])
    )
    assert nodes_of("lab", address, TOKEN) == [ClusterNode("10.0.0.1", 8, 1)]
    assert environments[0]["RAY_AUTH_TOKEN"] == TOKEN


def test_a_closed_port_is_told_with_what_was_tried_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "require_ray", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable) as refusal:
        nodes_of("lab", f"127.0.0.1:{port}", "")
    text = str(refusal.value)
    assert f"Compute 'lab': 127.0.0.1 can't be reached at port {port} (Connection refused, within 5 s)" in text
    assert f"ray start --head --port {port}" in text


def test_another_token_is_told_as_such_and_never_shown(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, json.dumps({"error": f"AuthenticationError: InvalidAuthToken: {TOKEN}"}), code=1)
    with pytest.raises(Unreachable, match=f"{address} refuses: the token is missing or another than") as refusal:
        nodes_of("lab", address, TOKEN)
    assert TOKEN not in str(refusal.value)


def test_what_ray_says_otherwise_is_passed_on(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, stderr="Traceback\nRuntimeError: other version\n", code=1)
    with pytest.raises(Unreachable, match="refuses: RuntimeError: other version"):
        nodes_of("lab", address, "")


def test_something_else_that_listens_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(argv, 1)

    answer(monkeypatch)
    monkeypatch.setattr(ray_cluster.subprocess, "run", run)
    with pytest.raises(Unreachable, match="is open, and nothing answers there as a Ray cluster within 45 s"):
        nodes_of("lab", address, "")


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pip install 'mafunzo\[ray\]'"):
        nodes_of("lab", "10.0.0.1:6379", "")


def test_a_driver_is_told_all_but_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    command = driver_command("10.0.0.1:6379", Placement("lab", 2), "train --lr 1", {"WORD": "x"})
    task = ClusterTask(*json.loads(command[-1]))
    assert (task.address, task.command, task.variables) == ("10.0.0.1:6379", "train --lr 1", {"WORD": "x"})
    assert Placement(**task.placement) == Placement("lab", 2)  # type: ignore[arg-type]
    assert ray_variables(TOKEN) == {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "token"}
    assert ray_variables("") == {}
    assert "RAY_AUTH_TOKEN" in KEPT_FROM_CHILDREN
