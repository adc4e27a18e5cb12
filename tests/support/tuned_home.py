"""A home in which one fine-tuning has ended: made once for all processes of a run of pytest, then restored from its backup."""

import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mafunzo import Workspace
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.home import Home
from mafunzo.control.workspace.workspace import restore
from tests.support.waiting import LIMIT_S

CONVERSATIONS = Path(__file__).parents[2] / "examples" / "conversations.jsonl"
BASE = "tiny-llama"
PARAMETERS: dict[str, Any] = {
    "apply_lora": True,
    "lora_r": 4,
    "learning_rate": 1e-3,
    "num_train_epochs": 1,
    "max_seq_length": 128,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "generation_rows": 2,
    "forgetting_prompts": 2,
}


def tuned_backup(folders: pytest.TempPathFactory) -> Path:
    """Return the backup of the home; the first process that asks makes it, and the others wait for that one."""
    own = folders.getbasetemp()
    file = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tuned-home.tar"
    with FileLock(f"{file}.lock", timeout=LIMIT_S):
        if not file.exists():
            _make(folders.mktemp("tuned-home"), file)
    return file


def tuned_home(folders: pytest.TempPathFactory) -> Path:
    """Return a new home that holds the finished job."""
    home = folders.mktemp("home")
    restore(tuned_backup(folders), home)
    artifacts = Artifacts(Home(home).artifacts)
    for artifact in artifacts.hashes():  # put long ago, not just now: what is deleted frees its bytes at once
        os.utime(artifacts.manifest_path(artifact), (0, 0))
    return home


def _make(home: Path, file: Path) -> None:
    with Workspace(home, port=0) as workspace:
        try:
            workspace.finetune(model=BASE, train=CONVERSATIONS, **PARAMETERS).wait(timeout_s=LIMIT_S)
        finally:
            workspace.down()
        workspace.backup(file)
