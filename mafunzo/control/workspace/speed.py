"""This machine's speed, as a process with torch measures it."""

import json
import os
import subprocess
import sys

from mafunzo.control.launcher.hardware import hardware
from mafunzo.entities.speed import Speed
from mafunzo.errors import FailedError


def measure_speed() -> Speed:
    """Multiply matrices for a second, with the threads that a step has here; raises `FailedError` where that fails."""
    command = [sys.executable, "-m", "mafunzo.compute.device.speed"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(hardware().cpus)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        return Speed.from_dict(json.loads(process.stdout))
    except (KeyError, TypeError, ValueError):
        last_lines = process.stderr.strip().splitlines()[-3:]
        raise FailedError("This machine's speed can't be measured.", last_lines) from None
