"""A model in the form that other programs read, written and checked by a process with torch."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mafunzo.control.workspace.services import Services
from mafunzo.entities.model_form import ModelForm
from mafunzo.errors import Conflict, FailedError, NotSupported, RefusedError

MODULE = "mafunzo.compute.components.export_model"


def export(services: Services, name: str, form: ModelForm, artifact: str, base: str | None, to: Path) -> Path:
    """Write a model's files in another form into the new folder `to`.

    base: the artifact of the model that an adapter was trained on. Raises `Conflict` for a folder that has something in it,
    `ArtifactCorrupt`, `NotSupported` for what has no such form, and `FailedError` where what was written computes otherwise.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Conflict(f"{to} isn't empty. Name a new folder.")
    command = [sys.executable, "-m", MODULE, "--to", form, "--name", name, "--output", str(to.absolute())]
    with TemporaryDirectory(prefix=".export-", dir=services.home.root) as scratch:
        for option, one in (("--model", artifact), ("--base", base)):
            if one is not None:
                services.artifacts.require_intact(one)
                folder = services.artifacts.checkout(one, Path(scratch) / option.strip("-"))
                command += [option, str(folder)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        last_lines = done.stderr.strip().splitlines()[-6:]
        error = NotSupported if done.returncode == RefusedError.exit_code else FailedError
        raise error(f"{name} wasn't exported.", last_lines)
    return to
