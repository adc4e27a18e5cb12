"""The connection to a Ray cluster, in a process of its own.

`python -m mafunzo.control.launcher.ray_connection ADDRESS` lists the nodes. A driver needs a node of the cluster on its own
machine: where there is none that has cores, this machine joins the cluster without cores or GPUs, so that nothing is placed
here, for as long as the driver lives (`leash.py`). Each of several drivers joins for itself: with one that ends, the node that
it has made ends, and must be no other's. Ray tells nodes of one machine apart by their temporary folders.
"""

import json
import logging
import os
import socket
import sys
import tempfile
import time
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any

import psutil

from mafunzo.control.launcher.leash import Leashed, start_on_leash
from mafunzo.control.launcher.local import RAY_TOKEN, last_lines
from mafunzo.control.launcher.ray_cluster import RAY_MODE
from mafunzo.entities.compute import ClusterNode
from mafunzo.errors import Unreachable
from mafunzo.tracking.step_folder import StepFolder

JOIN_S = 90.0
CALL_S = 20.0
STORE_BYTES = 256 * 2**20
"""The object store of this machine while it is a node: a few blocks on their way."""
ALIVE = 0


def connect(address: str, folder: Path) -> IO[bytes] | None:
    """Connect this process to a cluster; `folder` is for what joining it writes.

    Returns what holds this machine in the cluster, until it is closed; None where it is in there anyway. Raises
    `Unreachable`.
    """
    import ray

    leash, place, own = None, None, _own_host(address)
    if own is None:
        own, place = _route_to(address), tempfile.mkdtemp(prefix="ray-")
        command = _join_command(address, own, place)
        leash = start_on_leash(Leashed(str(folder), command, _token(), grace_s=20.0, discards=place))
    deadline = time.monotonic() + JOIN_S
    while True:
        try:
            ray.init(
                address=address,
                _node_ip_address=own,
                _temp_dir=place,
                log_to_driver=False,
                logging_level=logging.ERROR,
                namespace="mafunzo",
            )
            logging.getLogger("ray").setLevel(logging.ERROR)  # its words on other processes aren't the step's
            return leash
        except (ConnectionError, RuntimeError, ValueError) as error:
            if time.monotonic() > deadline or StepFolder(folder).exit.exists():
                raise Unreachable(
                    f"This machine ({own}) can't work with the Ray cluster at {address}: {error}",
                    last_lines(StepFolder(folder).log),
                ) from error
            time.sleep(1.0)


def disconnect(leash: IO[bytes] | None) -> None:
    """End this process's connection, then what `connect` returned."""
    import ray

    ray.shutdown()
    if leash is not None:
        leash.close()


def nodes(address: str) -> list[ClusterNode]:
    """Return the nodes that have cores, by their address."""
    known = [ClusterNode(host, int(of.get("CPU", 0)), int(of.get("GPU", 0))) for host, of in _resources(address)]
    return sorted((node for node in known if node.cpus), key=lambda node: ip_address(node.host))


def _own_host(address: str) -> str | None:
    """Return by which address this machine is a node with cores already."""
    own = {one.address for addresses in psutil.net_if_addrs().values() for one in addresses}
    return next((host for host, of in _resources(address) if host in own and of.get("CPU")), None)


def _resources(address: str) -> list[tuple[str, Any]]:
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import RayError

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        infos = GcsClient(address=address).get_all_node_info(timeout=CALL_S).values()
    except (RayError, RuntimeError, OSError) as error:
        raise Unreachable(f"The Ray cluster at {address} doesn't answer: {error}") from error
    return [(info.node_manager_address, dict(info.resources_total)) for info in infos if info.state == ALIVE]


def _route_to(address: str) -> str:
    """Return the address of this machine by which it reaches the cluster's head, and is reached by it."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        return str(probe.getsockname()[0])


def _join_command(address: str, own: str, place: str) -> list[str]:
    options = {
        "--address": address,
        "--node-ip-address": own,
        "--temp-dir": place,
        "--num-cpus": "0",
        "--num-gpus": "0",
        "--object-store-memory": str(STORE_BYTES),
        "--dashboard-agent-listen-port": "0",
    }
    words = [word for pair in options.items() for word in pair]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *words]


def _token() -> dict[str, str]:
    return {name: os.environ[name] for name in (RAY_TOKEN, RAY_MODE) if name in os.environ}


def main() -> int:
    """Print the nodes as JSON, or why they can't be had."""
    try:
        body: Any = [asdict(node) for node in nodes(sys.argv[1])]
    except Exception as error:  # noqa: BLE001 - the border of the process: whatever Ray raises becomes its answer
        body = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(body) + "\n")
    return 0 if isinstance(body, list) else 1


if __name__ == "__main__":
    sys.exit(main())
