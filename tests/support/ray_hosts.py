"""A Ray cluster on hosts as separate as one machine allows: each has a network, mounts and processes of its own, and an empty home.

Needs root, and programs of Linux: `ip` and `unshare`.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.support.waiting import until

TOKEN = "0f" * 16
PORT = 6379
ROOT = Path(__file__).parents[2]
_MOUNTS = """
mount --make-rprivate /
mount --bind "$CHECKOUT" /mnt
mount -t tmpfs none /tmp
mount -t tmpfs none /dev/shm
mkdir -p "$CHECKOUT"
mount --bind /mnt "$CHECKOUT"
mkdir /tmp/home
cd /tmp
exec "$@"
"""


def can_make_hosts() -> bool:
    """Return whether this machine lets us make hosts: a network in a namespace of its own says it."""
    if os.geteuid() or not all(map(shutil.which, ("ip", "unshare"))):
        return False
    return not subprocess.run(["unshare", "-n", "-m", "-p", "-f", "true"], capture_output=True).returncode


class RayHosts:
    """Hosts 1, 2 ..., of which the first is the cluster's head. `logs` is a folder for what Ray says on each."""

    def __init__(self, logs: Path) -> None:
        number = os.getpid() % 250
        self._name, self._net = f"mf{os.getpid() % 100000}", f"10.{200 + number % 50}.{number}"
        self._logs = logs
        self._hosts: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"{self.host(1)}:{PORT}"

    def host(self, number: int) -> str:
        return f"{self._net}.{number}"

    def __enter__(self) -> Self:
        _ip("link", "add", f"{self._name}b", "type", "bridge")
        _ip("addr", "add", f"{self._net}.254/24", "dev", f"{self._name}b")
        _ip("link", "set", f"{self._name}b", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._hosts):
            self.kill(number)
        _ip("link", "delete", f"{self._name}b")

    def start(self, number: int) -> None:
        """Start a host, and Ray on it with one core; the host isn't there before."""
        space, link = f"{self._name}n{number}", f"{self._name}v{number}"
        _ip("netns", "add", space)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", link, "master", f"{self._name}b", "up")
        _ip("-n", space, "addr", "add", f"{self.host(number)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", space, "link", "set", device, "up")
        role = (
            ["--head", "--port", str(PORT), "--include-dashboard", "False"]
            if number == 1
            else ["--address", self.address]
        )
        options = [
            "--node-ip-address",
            self.host(number),
            "--num-cpus",
            "1",
            "--object-store-memory",
            str(10**8),
            *role,
        ]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]
        own = [
            "ip",
            "netns",
            "exec",
            space,
            "unshare",
            "-m",
            "-p",
            "-f",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            _MOUNTS,
            "sh",
        ]
        variables = {"PATH": os.environ["PATH"], "HOME": "/tmp/home", "RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "token"}
        variables["CHECKOUT"] = str(ROOT)  # which may lie below /tmp
        with (self._logs / f"ray.{number}.txt").open("wb") as log:  # of an earlier start nothing is left
            process = subprocess.Popen(own + ray, env=variables, stdout=log, stderr=log, cwd="/")
        self._hosts[number] = process
        until(
            lambda: "will now block forever" in self.log(number) or process.poll() is not None, lambda: self.log(number)
        )
        assert process.poll() is None, self.log(number)

    def kill(self, number: int) -> None:
        """End a host at once, as a power cut does."""
        process = self._hosts.pop(number)
        process.kill()
        process.wait()
        space = f"{self._name}n{number}"
        while subprocess.run(["ip", "netns", "delete", space], capture_output=True).returncode:
            time.sleep(0.1)
        subprocess.run(["ip", "link", "delete", f"{self._name}v{number}"], capture_output=True)

    def log(self, number: int) -> str:
        return (self._logs / f"ray.{number}.txt").read_text()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
