"""Checkpoints: all that training needs to go on bit for bit, in safetensors and JSON, written whole or not at all.

checkpoint-N/ holds the adapter (peft's format) or the model (float32), optimizer.safetensors + optimizer.json,
scheduler.json, rng.safetensors (of each rank), trainer_state.json, and manifest.json with the hash of each and of itself,
beside the circumstances in which it was written (circumstance.py). A folder without a valid manifest is not a checkpoint, nor
is one of weights alone. No pickle anywhere.

A checkpoint is written beside its place, made durable, and renamed. A kill in between leaves either the one that was there
before or a whole `.checkpoint-N.tmp`, which `usable` puts in its place.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedModel

from mafunzo.compute.device.full_disk import is_full_disk
from mafunzo.compute.model.folder import sha256
from mafunzo.compute.model.loading import save_network
from mafunzo.compute.model.lora import WEIGHTS_FILE, AdapterConfig, read_tensors, save_adapter
from mafunzo.compute.training.snapshot import OptimizerState, Snapshot, restore_random_state, unflatten, weights_of
from mafunzo.errors import ArtifactCorrupt, Faults, StorageFull
from mafunzo.tracking.atomic_json import write_json

logger = logging.getLogger(__name__)

Load = Callable[[Iterable[tuple[str, Tensor]], OptimizerState], None]
MANIFEST = "manifest.json"
STATE = "trainer_state.json"
_NAME = re.compile(r"^checkpoint-\d+$")
_TEMPORARY = re.compile(r"^\.(checkpoint-\d+)\.tmp$")
OPTIMIZER = "optimizer.safetensors"
NEEDED = (OPTIMIZER, "optimizer.json", "scheduler.json", "rng.safetensors", STATE)
"""The files of a checkpoint beside its weights."""
OTHER_BYTES = 2**20
"""What a checkpoint takes of the disk beside its tensors, at least: headers, configuration, history."""


def save_checkpoint(output: Path, snapshot: Snapshot) -> Path:
    """Write `checkpoint-<step>` into `output`: into a temporary folder first, which is renamed once all is on the disk.

    Raises `StorageFull` where the disk is full, and leaves nothing of it then.
    """
    folder = output / f"checkpoint-{snapshot.step}"
    temporary = output / f".checkpoint-{snapshot.step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write_files(temporary, snapshot)
    except (OSError, SafetensorError) as error:
        if not is_full_disk(error):
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        raise _storage_full(output, snapshot) from error
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    _sync(output)
    return folder


def require_space(output: Path, snapshot: Snapshot) -> None:
    """Raise `StorageFull` where the disk has no room for a checkpoint."""
    if shutil.disk_usage(output).free < snapshot.n_bytes + OTHER_BYTES:
        raise _storage_full(output, snapshot)


def _storage_full(output: Path, snapshot: Snapshot) -> StorageFull:
    needed, free = (snapshot.n_bytes + OTHER_BYTES) / 1e6, shutil.disk_usage(output).free / 1e6
    return StorageFull(
        f"checkpoint-{snapshot.step} needs {needed:,.0f} MB on the disk of {output}, and {free:,.0f} MB are free. The "
        "checkpoints before it are kept: free space (`mafunzo prune` says what can go), or lower save_total_limit, and go on "
        "from there with `mafunzo job resume NAME`."
    )


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    folder.mkdir(parents=True)
    save_weights(snapshot.network, snapshot.adapter, folder, snapshot.weights)
    save_file(dict(snapshot.optimizer), folder / OPTIMIZER)
    write_json(folder / "optimizer.json", snapshot.optimizer_numbers, indent=2)
    write_json(folder / "scheduler.json", snapshot.schedule, indent=2)
    save_file(dict(snapshot.random_state), folder / "rng.safetensors")
    write_json(folder / STATE, snapshot.state, indent=2)
    manifest = {"files": {name: sha256(folder / name) for name in _files(folder)}, **snapshot.circumstances}
    write_json(folder / MANIFEST, manifest | {"sha256": _sha256_of(manifest)}, indent=2)
    for name in [*_files(folder), MANIFEST]:
        _sync(folder / name)
    _sync(folder)


def save_weights(
    network: PreTrainedModel, adapter: AdapterConfig | None, folder: Path, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write the adapter alone, or the whole model where there is none; `weights` are its values, if not those of now."""
    if adapter is not None:
        save_adapter(network, adapter, folder, weights)
    else:
        save_network(network, folder, weights)


def load_weights(network: PreTrainedModel, is_adapter: bool, folder: Path) -> None:
    """Put the weights of a checkpoint of this same run into the network."""
    weights = weights_of(network, is_adapter)
    for name, tensor in read_weights(network, is_adapter, folder):
        weights[name].copy_(tensor)


def read_weights(network: PreTrainedModel, is_adapter: bool, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a checkpoint of a network like this by name, of one file after the other."""
    if is_adapter:
        yield from read_tensors(folder, network).items()
        return
    for file in sorted(folder.glob("model*.safetensors")):
        yield from load_file(file).items()


def load_checkpoint(
    folder: Path,
    network: PreTrainedModel,
    is_adapter: bool,
    optimizer: Optimizer,
    schedule: LRScheduler,
    keeps_schedule: bool = True,
    rank: int = 0,
    load: Load | None = None,
) -> dict[str, Any]:
    """Put everything back as it was, and return the state that was saved; raises `ArtifactCorrupt` for changed bytes.

    keeps_schedule: whether the learning rate goes on as it did; otherwise as `schedule` has it after as many steps. load: puts
    weights and the optimizer's state in, where network and optimizer have parts of them.
    """
    verify(folder).require_none(f"{folder} isn't a whole checkpoint.", ArtifactCorrupt)
    numbers = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    state = unflatten(load_file(folder / OPTIMIZER), numbers)
    if load is not None:
        load(read_weights(network, is_adapter, folder), state)
    else:
        load_weights(network, is_adapter, folder)
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    schedule_state = json.loads((folder / "scheduler.json").read_text(encoding="utf-8"))
    if not keeps_schedule:
        schedule_state = _rescheduled(schedule, schedule_state)
    for group, rate in zip(optimizer.param_groups, schedule_state["_last_lr"], strict=True):
        group["lr"] = rate
    schedule.load_state_dict(schedule.state_dict() | schedule_state)
    restore_random_state(load_file(folder / "rng.safetensors"), rank)
    return read_state(folder)


def _rescheduled(schedule: LRScheduler, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a new schedule after as many steps as the saved one had taken."""
    assert isinstance(schedule, LambdaLR), "each schedule is a factor of the step"
    step = saved["last_epoch"]
    rates = [rate * factor(step) for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    return {"last_epoch": step, "_step_count": saved["_step_count"], "base_lrs": schedule.base_lrs, "_last_lr": rates}


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state that was saved with a whole checkpoint."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    assert isinstance(state, dict)
    return state


def checkpoints(output: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first."""
    folders = [path for path in output.glob("checkpoint-*") if _NAME.match(path.name) and path.is_dir()]
    return sorted(folders, key=step_of)


def step_of(folder: Path) -> int:
    """Return the optimizer step after which a checkpoint was written."""
    return int(folder.name.removeprefix("checkpoint-"))


def newest_whole(outputs: Iterable[Path]) -> Path | None:
    """Return the checkpoint with the most steps, in any of the folders, whose bytes are all there."""
    return next(_whole(outputs), None)


def usable(outputs: Sequence[Path]) -> list[Path]:
    """Return the newest checkpoint from which training can go on, then the best one that it names, if that is another.

    Both are whole; the best one's weights may become the result. The folders are those of one run, whose checkpoints of the
    same step are equal. Empty where there is none.
    """
    for output in outputs:
        _finish_writes(output)
    for folder in _whole(outputs):
        best = best_step(folder)
        if best is None or best == step_of(folder):
            return [folder]
        best_folder = next((path for path in _whole(outputs, step=best)), None)
        if best_folder is not None:
            return [folder, best_folder]
        logger.warning("%s can't be gone on from: checkpoint-%d, which it names as the best, isn't whole", folder, best)
    return []


def best_step(folder: Path) -> int | None:
    """Return the step of the best checkpoint at the time when a whole one was written."""
    best = read_state(folder).get("best_global_step")
    return best if isinstance(best, int) else None


def adopt(folder: Path, output: Path) -> None:
    """Have a checkpoint of an earlier attempt in `output` too, whole or not at all; its bytes aren't copied if they needn't.

    No file of a checkpoint is ever changed, so that hard links are safe.
    """
    target, temporary = output / folder.name, output / f".{folder.name}.tmp"
    if target.exists():
        return
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(folder, temporary, copy_function=_link_or_copy)
    os.replace(temporary, target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _whole(outputs: Iterable[Path], step: int | None = None) -> Iterator[Path]:
    """Yield the whole checkpoints, the newest first, or those of one step; the others are logged."""
    folders = [path for output in outputs for path in checkpoints(output) if step in (None, step_of(path))]
    for path in sorted(folders, key=step_of, reverse=True):
        faults = verify(path)
        if not faults:
            yield path
        else:
            logger.warning("%s isn't whole and is left out: %s", path, " ".join(faults))


def _finish_writes(output: Path) -> None:
    """Put a checkpoint that was written whole, and not yet renamed, in its place; delete what was cut off before."""
    for temporary in list(output.glob(".checkpoint-*.tmp")):
        match = _TEMPORARY.match(temporary.name)
        if match and not verify(temporary) and not (output / match[1]).exists():
            os.replace(temporary, output / match[1])
        else:
            shutil.rmtree(temporary, ignore_errors=True)


def verify(folder: Path) -> Faults:
    """Return what is wrong with a checkpoint's files."""
    faults = Faults()
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError):
        manifest = {"files": {}}
        faults.add(f"{MANIFEST} is missing or cut off.")
    recorded = manifest.pop("sha256", None)
    if recorded is not None and recorded != _sha256_of(manifest):
        faults.add(f"{MANIFEST} has other values than were written.")
    hashes = manifest["files"]
    for name in [*hashes, *(name for name in NEEDED if name not in hashes)]:
        path = folder / name
        if not path.exists():
            faults.add(f"{name} is missing.")
        elif name in hashes and sha256(path) != hashes[name]:
            faults.add(f"{name} has other bytes than were written.")
        elif hashes and name not in hashes:
            faults.add(f"{name} isn't named in {MANIFEST}.")
    if hashes and not any(_is_weights(name) for name in hashes):
        faults.add("the weights are missing.")
    return faults


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest; raises `OSError` and `ValueError`. That of release 0.1 has the files' hashes alone."""
    body = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(body, dict) or not isinstance(body.setdefault("files", dict(body)), dict):
        raise ValueError(f"{folder / MANIFEST} is no manifest")
    return body


def _is_weights(name: str) -> bool:
    return name == WEIGHTS_FILE or (name.startswith("model") and name.endswith(".safetensors"))


def _sha256_of(manifest: Mapping[str, Any]) -> str:
    """Return the hash of a manifest's values, itself left out."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def prune(output: Path, limit: int, best: Path | None, is_passing: Callable[[Path], bool] = lambda path: False) -> None:
    """Delete the oldest checkpoints beyond `limit` (-1: none), never the best, which counts among them, nor the newest.

    is_passing: whether one was written only so that little is lost; these go as soon as there is a newer one, and don't count.
    """
    newest_first = checkpoints(output)[::-1]
    lasting = [path for path in newest_first if path != best and not is_passing(path)]
    if limit > 0:
        lasting = lasting[: limit - (best is not None)]
    for path in newest_first[1:]:
        if path != best and path not in lasting:
            _delete(path)


def _delete(folder: Path) -> None:
    """Delete a checkpoint, its manifest first, so that what is left of it after a kill isn't taken for one."""
    with suppress(FileNotFoundError):
        (folder / MANIFEST).unlink()
    shutil.rmtree(folder)


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
