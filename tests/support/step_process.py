"""The process of a step: how it ended, and what still runs for its folder, looked for in every process's environment."""

import contextlib
import json
from pathlib import Path

import psutil

from mafunzo.control.launcher.local import ExitRecord, LocalLauncher, Running
from mafunzo.tracking.step_folder import STEP_FOLDER
from tests.support.waiting import until


def ended(folder: Path) -> ExitRecord:
    """Wait for the process of a step, and return its end."""
    launcher = LocalLauncher()
    until(lambda: not isinstance(launcher.status(folder), Running))
    status = launcher.status(folder)
    assert isinstance(status, ExitRecord)
    return status


def leftovers(folder: Path) -> list[int]:
    """Return the living processes that carry the folder's mark, its runner apart."""
    folder = folder.resolve()
    record = folder / "process.json"
    runner = json.loads(record.read_text()).get("pid") if record.exists() else None
    return [process.pid for process in psutil.process_iter() if process.pid != runner and _carries(process, folder)]


def _carries(process: psutil.Process, folder: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(STEP_FOLDER) == str(folder)
    return False
