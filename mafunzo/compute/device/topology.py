"""The topology of the machine: how many sockets its cores sit on, each with a memory of its own nearby."""

from pathlib import Path

CORES = Path("/sys/devices/system/cpu")


def sockets(cores: Path = CORES) -> int:
    """Return how many sockets there are; 1 where the machine doesn't say."""
    files = cores.glob("cpu[0-9]*/topology/physical_package_id")
    return max(1, len({file.read_text().strip() for file in files}))
