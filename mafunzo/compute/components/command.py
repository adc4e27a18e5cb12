"""The command line of a component: made from its YAML interface, checked against it, with one clear error at the end."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mafunzo import settings
from mafunzo.compute.device import waiting
from mafunzo.compute.device.allocator import keep_freed_memory
from mafunzo.compute.device.full_disk import is_full_disk
from mafunzo.compute.device.out_of_memory import is_out_of_memory
from mafunzo.entities.component import Component, parse_value
from mafunzo.entities.component_file import component_from_dict
from mafunzo.entities.parameters.parameter import typed
from mafunzo.errors import FailedError, Faults, InvalidParameter, MafunzoError, OutOfMemory, StorageFull
from mafunzo.tracking.atomic_json import write_json
from mafunzo.tracking.metrics import MetricLog
from mafunzo.tracking.step_folder import StepFolder


@dataclass(frozen=True)
class Arguments:
    """A component's inputs and outputs. `values` holds typed literals (None for an optional input without a value), which each
    component names in a dataclass of its own; `paths` existing files and folders; `outputs` paths whose parents exist.
    `memory_budget_mb`: what this process may take, 0 where nobody says. `cache`: where to keep what can be made again, None
    for nowhere."""

    values: dict[str, Any]
    paths: dict[str, Path | None]
    outputs: dict[str, Path]
    metrics: MetricLog
    memory_budget_mb: float = 0.0
    cache: Path | None = None

    @property
    def proofs(self) -> Path | None:
        """The folder of what was proven of networks before."""
        return None if self.cache is None else self.cache / "proofs"

    def path(self, name: str) -> Path:
        """Return a path input; raises `InvalidParameter` if it is missing."""
        path = self.paths[name]
        if path is None:
            raise InvalidParameter(f"--{name} is missing.")
        return path


def run(source: str, work: Callable[[Arguments], None], argv: Sequence[str] | None = None) -> None:
    """Run `work` as the command line of the component whose module is `source` (`__file__`), then exit.

    Errors go to stderr and, inside of a job, to `error.json` in the step's folder.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    os.environ.setdefault(
        "TQDM_DISABLE", "1"
    )  # libraries' own bars fill a log with carriage returns; ours are in tracking
    keep_freed_memory()
    waiting.watch(leaves_cores=True)
    component = load_interface(Path(source).with_suffix(".yml"))
    environment = settings.load()
    step_folder = environment.step_folder
    try:
        arguments = parse(component, sys.argv[1:] if argv is None else argv, step_folder)
        work(replace(arguments, memory_budget_mb=environment.memory_budget_mb, cache=environment.cache))
    except MafunzoError as error:
        _tell(error, step_folder)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - the border of the process: whatever broke becomes its record
        failure = _translate(error)
        if isinstance(failure, FailedError) and failure.code == "failed":
            traceback.print_exc()
        _tell(failure, step_folder)
        sys.exit(failure.exit_code)


def load_interface(path: Path) -> Component:
    """Read a component's YAML file."""
    return component_from_dict(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)


def parse(component: Component, argv: Sequence[str], step_folder: Path | None = None) -> Arguments:
    """Check `argv` against the interface; raises `InvalidParameter` with all faults."""
    parser = argparse.ArgumentParser(
        prog=f"python -m mafunzo.compute.components.{component.name}",
        description=component.description,
        allow_abbrev=False,
    )
    for parameter in component.inputs.values():
        default = "" if parameter.default is None else f" (default: {parameter.default})"
        text = (parameter.description + default).replace("%", "%%")
        parser.add_argument(f"--{parameter.name}", help=text, metavar=parameter.type.upper())
    for output in component.outputs.values():
        parser.add_argument(
            f"--{output.name}", help=output.description.replace("%", "%%"), metavar="PATH", required=True
        )
    options = vars(parser.parse_args(argv))
    values: dict[str, Any] = {}
    paths: dict[str, Path | None] = {}
    faults = Faults()
    for name, parameter in component.inputs.items():
        raw = options[name] if options[name] is not None else parameter.default
        if raw is None:
            faults.add(f"--{name} is missing." if parameter.is_required else "")
            (paths if parameter.is_path else values)[name] = None
        elif parameter.is_path:
            paths[name] = path = Path(str(raw))
            faults.add("" if path.exists() else f"--{name} is '{raw}', which doesn't exist.")
        else:
            value, fault = parse_value(parameter, raw)
            values[name] = typed(parameter, value)
            faults.add(fault)
    faults.require_none(f"{component.name} can't start.")
    outputs = {name: Path(options[name]) for name in component.outputs}
    for path in outputs.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    return Arguments(values, paths, outputs, MetricLog(StepFolder(step_folder).metrics if step_folder else None))


def _translate(error: Exception) -> MafunzoError:
    if is_full_disk(error):
        place = getattr(error, "filename", None) or "an output"
        return StorageFull(f"The disk is full at {place}. Free space, then run the job again.")
    if is_out_of_memory(error):
        return OutOfMemory(
            "Out of memory. Lower per_device_train_batch_size or max_seq_length, or set apply_lora to true."
        )
    return FailedError(f"{type(error).__name__}: {error}")


def _tell(error: MafunzoError, step_folder: Path | None) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"error: {error}\n")
    if step_folder is not None:
        write_json(StepFolder(step_folder).error, error.record)
