"""Ray clusters, as this machine's processes see them: whether one is reached, and how a step gets there.

A step on a cluster is a process of this machine all the same, its driver (`ray_driver.py`). So it is started, looked at,
adopted after a crash and ended by the local launcher, as every step is. No Ray is loaded here: it ends a process that it can't
work in, and takes its time to load; whoever talks to a cluster is a process of its own.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from mafunzo.control.launcher.local import KEPT_FROM_CHILDREN, RAY_TOKEN
from mafunzo.entities.compute import ClusterNode, Placement
from mafunzo.errors import MissingExtra, Unreachable

ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<port>\d{1,5})")
CONNECT_S = 5.0
ANSWER_S = 45.0
"""How long a cluster may take to say what nodes it has, the start of a Python with Ray included."""
RAY_MODE = "RAY_AUTH_MODE"


class ClusterTask(NamedTuple):
    """What a driver is given: where the cluster is, and what runs on its nodes. variables: the environment of the processes."""

    address: str
    placement: Mapping[str, object]
    command: str
    variables: Mapping[str, str]


def address_fault(address: str) -> str:
    """Return what is wrong with the text of an address; empty where nothing is."""
    match = ADDRESS.fullmatch(address)
    if match and 0 < int(match["port"]) <= 65535:
        return ""
    return f"address is '{address}', expected HOST:PORT of the cluster's head, as `ray start --head` says it: 10.0.0.1:6379."


def require_ray() -> None:
    """Raise `MissingExtra` where Ray isn't installed."""
    if find_spec("ray") is None:
        raise MissingExtra("Ray isn't installed, which reaches a cluster of machines. Run: pip install 'mafunzo[ray]'")


def environment_token() -> str:
    """Return the token in this process's environment, which Ray itself looks for there; empty for none."""
    return os.environ.get(RAY_TOKEN, "")


def ray_variables(token: str) -> dict[str, str]:
    """Return the environment variables of a process that talks to a cluster; without a token Ray finds its own."""
    return {RAY_TOKEN: token, RAY_MODE: "token"} if token else {}


def nodes_of(name: str, address: str, token: str) -> list[ClusterNode]:
    """Return the nodes of a cluster that have cores, sorted by their address.

    Raises `Unreachable` with what was tried, and `MissingExtra`.
    """
    require_ray()
    require_port(name, address)
    inherited = {key: value for key, value in os.environ.items() if key not in (*KEPT_FROM_CHILDREN, RAY_MODE)}
    own = {key: os.environ[key] for key in (RAY_TOKEN, RAY_MODE) if key in os.environ} if not token else {}
    argv = [sys.executable, "-m", "mafunzo.control.launcher.ray_connection", address]
    try:
        answer = subprocess.run(
            argv, env={**inherited, **own, **ray_variables(token)}, capture_output=True, text=True, timeout=ANSWER_S
        )
    except subprocess.TimeoutExpired as error:
        raise Unreachable(
            f"Compute '{name}': {address} is open, and nothing answers there as a Ray cluster within {ANSWER_S:g} s. Name the "
            "port of `ray start --head` (6379 by default), and look with `ray status` on that machine."
        ) from error
    body = _last_json(answer.stdout)
    if answer.returncode or not isinstance(body, list):
        raise Unreachable(f"Compute '{name}': {address} refuses: {_reason(answer, body)}")
    return [ClusterNode(**node) for node in body]


def driver_command(address: str, placement: Placement, command: str, variables: Mapping[str, str]) -> list[str]:
    """Return the command line of a step's driver, which works in the attempt's folder; `command` runs in that of each node."""
    task = ClusterTask(address, placement.__dict__, command, variables)
    return [sys.executable, "-m", "mafunzo.control.launcher.ray_driver", json.dumps(task)]


def require_port(name: str, address: str) -> None:
    """Raise `Unreachable` where nothing listens at the address of a compute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise Unreachable(
            f"Compute '{name}': {host} can't be reached at port {port} ({why}, within {CONNECT_S:g} s). Start the cluster "
            f"there (`ray start --head --port {port}`), open the port for this machine, or name another address: "
            f"mafunzo compute create {name} --type ray --address HOST:PORT"
        ) from error


def _last_json(text: str) -> object:
    for line in reversed(text.splitlines()):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return None


def _reason(answer: "subprocess.CompletedProcess[str]", body: object) -> str:
    """Return why a cluster refuses. The token is no part of it."""
    text = str(body.get("error", "")) if isinstance(body, dict) else answer.stderr
    if "InvalidAuthToken" in text or "token" in text.lower():
        return (
            "the token is missing or another than the cluster's. Set RAY_AUTH_TOKEN to the cluster's (`ray get-auth-token` "
            "there) and make the compute again."
        )
    lines: Sequence[str] = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"Ray ended with {answer.returncode}, and said nothing."
