"""The examination of a GPU, by a process that trains on it and beside it on the CPU."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from mafunzo.control.launcher.hardware import hardware
from mafunzo.entities.examination import Check, Examination
from mafunzo.errors import FailedError, InvalidFile, NotFound

MODULE = "mafunzo.compute.components.examine_gpu"
SOFTWARE = ("mafunzo", "torch", "transformers")


def examine_gpu(model: Path | None, on_check: Callable[[Check], None]) -> Examination:
    """Examine this machine's first GPU; `on_check` gets each check as soon as it is done, of some five minutes in all.

    model: a Hugging Face folder; None for random weights. Raises `NotFound` without a GPU, `InvalidFile` for what is no model,
    `FailedError` where the process ends before its checks.
    """
    gpus = hardware().gpus
    if not gpus:
        raise NotFound(
            "There is no GPU to examine: nvidia-smi names none. Install NVIDIA's driver, or run this on a machine with a GPU."
        )
    if model is not None and not (model / "config.json").is_file():
        raise InvalidFile(f"--model is '{model}', which has no config.json. Name a Hugging Face folder.")
    software = {name: version(name) for name in SOFTWARE}
    return Examination(gpus[0], software, tuple(_checks(model, on_check)))


def _checks(model: Path | None, on_check: Callable[[Check], None]) -> list[Check]:
    checks = []
    with TemporaryDirectory(prefix="mafunzo-examination-") as work, TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", MODULE, "--work", work]
        command += ["--model", str(model.absolute())] if model else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            for line in filter(lambda line: line.startswith("{"), process.stdout):
                checks.append(Check.from_dict(json.loads(line)))
                on_check(checks[-1])
        errors.seek(0)
        last_lines = errors.read().strip().splitlines()[-3:]
    if process.returncode:
        raise FailedError(f"The examination broke off after {len(checks)} checks.", last_lines)
    return checks
