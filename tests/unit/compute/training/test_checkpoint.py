import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from mafunzo.compute.model.lora import AdapterConfig, add_adapter
from mafunzo.compute.training import checkpoint
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.checkpoint import (
    checkpoints,
    load_checkpoint,
    newest_whole,
    prune,
    save_checkpoint,
    verify,
)
from mafunzo.compute.training.optimizer import make_optimizer
from mafunzo.compute.training.schedule import make_schedule
from mafunzo.compute.training.snapshot import take_snapshot
from mafunzo.errors import ArtifactCorrupt, StorageFull
from tests.support.tiny_training import tiny

ARGUMENTS = TrainingArguments.from_values(
    {"learning_rate": 0.01, "weight_decay": 0.1, "adam_beta2": 0.99, "lr_scheduler_type": "cosine", "warmup_steps": 2}
)


def make(optim="adamw_torch", is_lora=True):
    """Network, adapter, optimizer and schedule of a tiny run."""
    network = tiny()
    adapter = AdapterConfig(r=2, alpha=4) if is_lora else None
    torch.manual_seed(1)
    if adapter:
        add_adapter(network, adapter)
    optimizer = make_optimizer(network, replace(ARGUMENTS, optim=optim))
    return network, adapter, optimizer, make_schedule(optimizer, ARGUMENTS, 20)


def steps(parts, count):
    network, _, optimizer, schedule = parts
    for _ in range(count):
        ids = torch.randint(0, 60, (1, 9))
        network(ids, labels=ids).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def save(parts, output: Path, step=3, **state) -> Path:
    network, adapter, optimizer, schedule = parts
    return save_checkpoint(output, take_snapshot(step, network, adapter, optimizer, schedule, state))


def weights(parts):
    return {name: p.detach().clone() for name, p in parts[0].named_parameters() if p.requires_grad}


@pytest.mark.parametrize("is_lora", [True, False], ids=["LoRA", "full"])
@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "sgd", "muon"])
def test_what_was_loaded_goes_on_with_the_same_bits(tmp_path, optim, is_lora):
    first = make(optim, is_lora)
    torch.manual_seed(3)
    steps(first, 3)
    folder = save(first, tmp_path, note="here")
    steps(first, 3)
    second = make(optim, is_lora)
    torch.manual_seed(99)
    steps(second, 1)
    state = load_checkpoint(folder, second[0], is_lora, second[2], second[3])
    assert state == {"note": "here"}
    steps(second, 3)
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name]), name
    assert first[3].get_last_lr() == second[3].get_last_lr()


def test_no_file_is_a_pickle(tmp_path):
    folder = save(make(), tmp_path)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_changed_bytes_are_named_and_not_loaded(tmp_path):
    parts = make()
    folder = save(parts, tmp_path)
    with (folder / "rng.safetensors").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xee\xdd")
    (folder / "scheduler.json").unlink()
    with pytest.raises(ArtifactCorrupt) as caught:
        load_checkpoint(folder, parts[0], True, parts[2], parts[3])
    assert caught.value.faults == ("rng.safetensors has other bytes than were written.", "scheduler.json is missing.")


def test_a_write_that_is_cut_off_leaves_the_earlier_checkpoints_alone(tmp_path, monkeypatch):
    parts = make()
    save(parts, tmp_path, step=1)

    def broken_disk(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(checkpoint, "_sync", broken_disk)
    with pytest.raises(OSError, match="Input/output error"):
        save(parts, tmp_path, step=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]
    assert newest_whole([tmp_path]) == tmp_path / "checkpoint-1"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["full", "quota", "full, as safetensors tells it"],
)
def test_a_disk_that_fills_up_meanwhile_is_told_and_leaves_nothing_of_it(tmp_path, monkeypatch, error):
    parts = make()
    save(parts, tmp_path, step=1)

    def full(tensors, path):
        raise error

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(
        StorageFull, match=r"checkpoint-2 needs 1 MB on the disk of .*The checkpoints before it are kept"
    ):
        save(parts, tmp_path, step=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("family", ["llama", "llama tied"])
def test_a_copy_is_written_as_what_it_was_copied_from(tmp_path, family):
    network = tiny(family)
    optimizer = make_optimizer(network, ARGUMENTS)
    schedule = make_schedule(optimizer, ARGUMENTS, 20)
    steps((network, None, optimizer, schedule), 2)
    snapshot = take_snapshot(2, network, None, optimizer, schedule, {})
    copied = snapshot.copied()
    assert copied.n_bytes == snapshot.n_bytes
    assert not {t.data_ptr() for t in copied.weights.values()} & {t.data_ptr() for t in snapshot.weights.values()}
    one, other = save_checkpoint(tmp_path / "a", snapshot), save_checkpoint(tmp_path / "b", copied)
    assert (one / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


def test_the_newest_whole_one_is_found_over_several_folders(tmp_path):
    parts = make()
    one, two = tmp_path / "1", tmp_path / "2"
    save(parts, one, step=9)
    save(parts, two, step=10)
    broken = save(parts, one, step=11)
    (broken / "manifest.json").write_text('{"optimizer.json": "0')
    assert list(verify(broken)) == ["manifest.json is missing or cut off."]
    assert newest_whole([two, one, tmp_path / "none"]) == two / "checkpoint-10"
    assert newest_whole([tmp_path / "none"]) is None


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [
        pytest.param(-1, 1, [1, 2, 3, 4], id="all"),
        pytest.param(2, 1, [1, 4], id="the best and the newest"),
        pytest.param(2, 4, [3, 4], id="the best is the newest"),
        pytest.param(1, 2, [2, 4], id="the best and the newest, from which training can go on"),
        pytest.param(1, None, [4], id="no best, the newest"),
        pytest.param(2, None, [3, 4], id="no best"),
    ],
)
def test_the_oldest_are_deleted_never_the_best_nor_the_newest(tmp_path, limit, keep, left):
    for step in (1, 2, 3, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    prune(tmp_path, limit, tmp_path / f"checkpoint-{keep}" if keep else None)
    assert [checkpoint.step_of(path) for path in checkpoints(tmp_path)] == left


@pytest.mark.parametrize(
    ("limit", "passing", "left"),
    [
        pytest.param(-1, (2, 3), [1, 4], id="all others are kept"),
        pytest.param(-1, (2, 4), [1, 3, 4], id="the newest is kept"),
        pytest.param(2, (4,), [1, 3, 4], id="beside those of the limit"),
        pytest.param(1, (4,), [1, 4], id="beside the best"),
    ],
)
def test_passing_ones_go_once_there_is_a_newer_one(tmp_path, limit, passing, left):
    for step in (1, 2, 3, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    prune(tmp_path, limit, tmp_path / "checkpoint-1", lambda path: checkpoint.step_of(path) in passing)
    assert [checkpoint.step_of(path) for path in checkpoints(tmp_path)] == left


def damage(folder: Path) -> None:
    (folder / "rng.safetensors").unlink()


def edit_manifest(folder: Path, edit) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("break_it", "faults"),
    [
        pytest.param(
            lambda folder: (folder / "optimizer.safetensors").unlink(),
            ["optimizer.safetensors is missing."],
            id="no optimizer",
        ),
        pytest.param(
            lambda folder: edit_manifest(folder, lambda manifest: manifest["files"].pop("optimizer.safetensors")),
            [
                "manifest.json has other values than were written.",
                "optimizer.safetensors isn't named in manifest.json.",
            ],
            id="an optimizer that the manifest was made not to name",
        ),
        pytest.param(
            lambda folder: edit_manifest(folder, lambda manifest: manifest.update(threads=64)),
            ["manifest.json has other values than were written."],
            id="another number of threads",
        ),
        pytest.param(
            lambda folder: [path.unlink() for path in folder.iterdir() if not path.name.startswith("adapter")],
            [
                "manifest.json is missing or cut off.",
                *(f"{name} is missing." for name in checkpoint.NEEDED),
            ],
            id="weights alone",
        ),
        pytest.param(
            lambda folder: (folder / "manifest.json").write_text("[]"),
            ["manifest.json is missing or cut off."],
            id="no manifest",
        ),
        pytest.param(
            lambda folder: os.truncate(folder / "adapter_model.safetensors", 100),
            ["adapter_model.safetensors has other bytes than were written."],
            id="torn",
        ),
    ],
)
def test_what_is_not_as_it_was_written_is_named_and_the_last_good_one_is_taken(tmp_path, caplog, break_it, faults):
    parts = make()
    save(parts, tmp_path, step=1, best_global_step=None)
    folder = save(parts, tmp_path, step=2, best_global_step=None)
    break_it(folder)
    assert list(verify(folder)) == faults
    assert checkpoint.usable([tmp_path]) == [tmp_path / "checkpoint-1"]
    assert all(fault in caplog.text for fault in ("checkpoint-2", *faults))


def test_one_of_the_first_release_whose_manifest_has_hashes_alone_counts(tmp_path):
    folder = save(make(), tmp_path, best_global_step=None)
    hashes = json.loads((folder / "manifest.json").read_text())["files"]
    (folder / "manifest.json").write_text(json.dumps(hashes))
    assert checkpoint.usable([tmp_path]) == [folder]
    (folder / "manifest.json").write_text(json.dumps({k: v for k, v in hashes.items() if "optimizer" not in k}))
    assert checkpoint.usable([tmp_path]) == []


def test_training_can_go_on_from_the_newest_whole_one_whose_best_is_whole(tmp_path):
    parts = make()
    one, two = tmp_path / "1", tmp_path / "2"
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3)):
        save(parts, one, step=step, best_global_step=best)
    shutil.copytree(one / "checkpoint-3", two / "checkpoint-3")
    damage(one / "checkpoint-3")
    assert checkpoint.usable([two, one]) == [one / "checkpoint-4", two / "checkpoint-3"]
    damage(two / "checkpoint-3")
    assert checkpoint.usable([two, one]) == [one / "checkpoint-2", one / "checkpoint-1"]
    damage(one / "checkpoint-2")
    assert checkpoint.usable([two, one]) == [one / "checkpoint-1"]
    damage(one / "checkpoint-1")
    assert checkpoint.usable([two, one]) == []


def test_one_that_was_written_whole_and_not_yet_renamed_counts(tmp_path):
    parts = make()
    save(parts, tmp_path, step=1, best_global_step=None)
    save(parts, tmp_path, step=2, best_global_step=None).rename(tmp_path / ".checkpoint-2.tmp")
    save(parts, tmp_path, step=3, best_global_step=None).rename(tmp_path / ".checkpoint-3.tmp")
    damage(tmp_path / ".checkpoint-3.tmp")
    assert checkpoint.usable([tmp_path]) == [tmp_path / "checkpoint-2"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-1", "checkpoint-2"]


def test_one_is_taken_over_without_copying_its_bytes(tmp_path):
    folder = save(make(), tmp_path / "1")
    (tmp_path / "2").mkdir()
    checkpoint.adopt(folder, tmp_path / "2")
    assert not verify(tmp_path / "2" / "checkpoint-3")
    assert (tmp_path / "2" / "checkpoint-3" / "optimizer.safetensors").samefile(folder / "optimizer.safetensors")


def test_the_state_is_written_as_json(tmp_path):
    folder = save(make(), tmp_path, global_step=3)
    assert json.loads((folder / "trainer_state.json").read_text()) == {"global_step": 3}
