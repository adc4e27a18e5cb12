"""The predictions of a batch scoring job, as one file."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.control.workspace.services import Services
from mafunzo.entities.parameters.score import BATCH_SCORE, REPORT_FILE
from mafunzo.errors import InvalidParameter

OUTPUT = "predictions"


def write_predictions(services: Services, job: JobHandle, to: Path) -> Mapping[str, Any]:
    """Write a job's predictions into the file `to`, whole or not at all; return what became of the rows.

    Raises `NotFound` for a job without, `JobFailed` where it has none yet, `ArtifactCorrupt` for damaged ones, and
    `InvalidParameter` for a place where no file can be.
    """
    require_place(to)
    artifact = job.output_artifact(OUTPUT, step=BATCH_SCORE)
    services.artifacts.require_intact(artifact)
    file = services.artifacts.open_file(artifact, REPORT_FILE)
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    draft = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        shutil.copyfile(services.artifacts.open_file(artifact, report.pop("file")), draft)
        draft.replace(to)
    finally:
        draft.unlink(missing_ok=True)
    return report


def require_place(to: Path) -> None:
    """Raise `InvalidParameter` unless a file can be written to `to`."""
    if to.is_dir() or not to.absolute().parent.is_dir():
        reason = "is a folder" if to.is_dir() else f"is in no folder that exists ({to.absolute().parent})"
        raise InvalidParameter(f"{to} {reason}. Name a file.")
