"""This machine's speed, as a process with torch measures it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from mafunzo.control.launcher.hardware import hardware
from mafunzo.control.launcher.local import PASSIVE_WAIT
from mafunzo.errors import FailedError


@dataclass(frozen=True)
class Speed:
    """flops: floating point operations a second of matrix products; format: their number format, as training has it."""

    flops: float
    format: str
    free_bytes: int

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> "Speed":
        """Parse what the process prints; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        return cls(float(body["flops"]), str(body["format"]), int(body["free_bytes"]))


def measure_speed() -> Speed:
    """Multiply matrices for a second, with the threads that a step has here; raises `FailedError` where that fails."""
    command = [sys.executable, "-m", "mafunzo.compute.device.speed"]
    environment = {**PASSIVE_WAIT, **os.environ, "OMP_NUM_THREADS": str(hardware().cpus)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        return Speed.from_dict(json.loads(process.stdout))
    except (KeyError, TypeError, ValueError):
        last_lines = process.stderr.strip().splitlines()[-3:]
        raise FailedError("This machine's speed can't be measured.", last_lines) from None
