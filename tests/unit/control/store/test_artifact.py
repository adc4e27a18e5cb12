import errno
import hashlib
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from types import SimpleNamespace
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mafunzo.control.store import disk
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.manifest import StoredFile
from mafunzo.errors import ArtifactCorrupt, Conflict, InvalidFile, NotFound

names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in {".", ".."}
)
trees = st.recursive(
    st.tuples(st.binary(max_size=40), st.booleans()),
    lambda inner: st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
).filter(lambda tree: isinstance(tree, dict))

PUT_AND_VERIFY = """
import random, sys
from pathlib import Path
from mafunzo.control.store.artifact import Artifacts
artifacts, source = Artifacts(Path(sys.argv[1])), Path(sys.argv[2])
for _ in range(30):
    with artifacts.held():
        stored = artifacts.put(source)
        assert artifacts.verify(stored) == [], artifacts.verify(stored)
"""
PUT_FOREVER = """
import sys
from pathlib import Path
from mafunzo.control.store.artifact import Artifacts
print("ready", flush=True)
while True:
    artifacts = Artifacts(Path(sys.argv[1]))
    artifacts.put(Path(sys.argv[2]))
    artifacts.collect(set(), grace_s=0)
"""


def _write(root: Path, tree: dict[str, object]) -> Path:
    root.mkdir()
    for name, content in tree.items():
        if isinstance(content, dict):
            _write(root / name, content)
        else:
            data, is_executable = content if isinstance(content, tuple) else (content, False)
            (root / name).write_bytes(data)
            (root / name).chmod(0o755 if is_executable else 0o644)
    return root


def _read(root: Path) -> dict[str, object]:
    return {
        path.name: _read(path) if path.is_dir() else (path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR))
        for path in root.iterdir()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _write(tmp_path / "folder", {"a.txt": b"same", "sub": {"b.txt": b"same", "c.bin": b"other" * 1000}})


def _files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# In and out


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.booleans())
def test_any_tree_comes_out_as_it_went_in_and_goes_in_under_the_same_hash(
    tree: dict[str, object], is_writable: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        artifacts = Artifacts(Path(place) / "store")
        stored = artifacts.put(_write(Path(place) / "in", tree))
        out = artifacts.checkout(stored, Path(place) / "out", is_writable)
        assert _read(out) == tree
        assert artifacts.put(out) == stored
        assert artifacts.verify(stored) == []


def test_the_hash_is_that_of_the_manifest_which_anyone_can_recompute(artifacts: Artifacts, folder: Path) -> None:
    stored = artifacts.put(folder)

    def entry(path: str, content: bytes) -> dict[str, object]:
        return {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}

    files = [entry("a.txt", b"same"), entry("sub/b.txt", b"same"), entry("sub/c.bin", b"other" * 1000)]
    manifest = {"kind": "folder", "files": files, "empty_folders": []}
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    assert stored == "sha256:" + hashlib.sha256(text).hexdigest()
    assert [file.path for file in artifacts.manifest(stored)] == ["a.txt", "sub/b.txt", "sub/c.bin"]
    assert artifacts.manifest(stored)[0] == StoredFile("a.txt", hashlib.sha256(b"same").hexdigest(), 4)
    assert artifacts.size(stored) == 5008


def test_the_same_bytes_are_kept_once_across_files_and_artifacts(artifacts: Artifacts, folder: Path) -> None:
    first = artifacts.put(folder)
    (folder / "new.txt").write_bytes(b"same")
    second = artifacts.put(folder)
    assert first != second
    assert len(_files_below(artifacts.root / "blobs")) == 2
    assert artifacts.hashes() == sorted([first, second])


def test_a_single_file_keeps_its_name(artifacts: Artifacts, folder: Path, tmp_path: Path) -> None:
    stored = artifacts.put(folder / "a.txt")
    out = artifacts.checkout(stored, tmp_path / "out")
    assert out == tmp_path / "out" / "a.txt" and out.read_bytes() == b"same"
    assert artifacts.put(folder / "sub" / "b.txt") != stored
    assert artifacts.open_file(stored, "a.txt").read_bytes() == b"same"


def test_a_read_only_checkout_is_hard_links_that_nobody_may_write_to(
    artifacts: Artifacts, folder: Path, tmp_path: Path
) -> None:
    stored = artifacts.put(folder)
    out = artifacts.checkout(stored, tmp_path / "out")
    blob = artifacts.open_file(stored, "a.txt")
    assert (out / "a.txt").stat().st_ino == (out / "sub/b.txt").stat().st_ino == blob.stat().st_ino
    assert _mode(out / "a.txt") == 0o444


def test_what_is_written_into_a_writable_checkout_stays_out_of_the_store(
    artifacts: Artifacts, folder: Path, tmp_path: Path
) -> None:
    stored = artifacts.put(folder)
    out = artifacts.checkout(stored, tmp_path / "out", is_writable=True)
    (out / "a.txt").write_bytes(b"spoilt")
    assert (out / "sub/b.txt").read_bytes() == b"same"
    assert artifacts.verify(stored) == []


def test_another_file_system_gets_copies_that_are_read_only(artifacts: Artifacts, folder: Path) -> None:
    stored = artifacts.put(folder)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        assert os.stat(elsewhere).st_dev != artifacts.root.stat().st_dev, "this test needs a second file system"
        out = artifacts.checkout(stored, Path(elsewhere) / "out")
        assert (out / "sub/c.bin").read_bytes() == b"other" * 1000
        assert _mode(out / "a.txt") == 0o444
        assert artifacts.put(out) == stored


def test_final_files_become_the_stored_bytes_without_a_copy(artifacts: Artifacts, folder: Path) -> None:
    stored = artifacts.put(folder, is_final=True)
    assert (folder / "sub/c.bin").stat().st_ino == artifacts.open_file(stored, "sub/c.bin").stat().st_ino
    assert _mode(folder / "sub/c.bin") == 0o444
    assert artifacts.verify(stored) == [] and artifacts.put(folder) == stored


def test_final_files_that_cannot_be_linked_are_copied(artifacts: Artifacts, tmp_path: Path) -> None:
    source = _write(tmp_path / "in", {"run.sh": (b"echo", True), "target": b"text"})
    (source / "link").symlink_to("target")
    stored = artifacts.put(source, is_final=True)
    assert (_mode(source / "run.sh"), (source / "link").is_symlink()) == (0o755, True)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        assert artifacts.put(_write(Path(elsewhere) / "in", {"x": b"elsewhere"}), is_final=True) != stored
    assert all(artifacts.verify(each) == [] for each in artifacts.hashes())


def test_an_executable_file_does_not_make_its_twin_executable(artifacts: Artifacts, tmp_path: Path) -> None:
    source = _write(tmp_path / "in", {"run.sh": (b"echo", True), "text": (b"echo", False)})
    out = artifacts.checkout(artifacts.put(source), tmp_path / "out")
    assert (_mode(out / "run.sh"), _mode(out / "text")) == (0o555, 0o444)


def test_a_checkout_never_overwrites(artifacts: Artifacts, folder: Path, tmp_path: Path) -> None:
    stored, single = artifacts.put(folder), artifacts.put(folder / "a.txt")
    (tmp_path / "out").mkdir()
    artifacts.checkout(stored, tmp_path / "out")
    with pytest.raises(Conflict, match=r"out exists already and isn't empty"):
        artifacts.checkout(stored, tmp_path / "out")
    with pytest.raises(Conflict, match=r"a\.txt exists already"):
        artifacts.checkout(single, tmp_path / "out")
    assert artifacts.checkout(single, tmp_path / "out" / "sub") == tmp_path / "out" / "sub" / "a.txt"


def test_what_is_not_stored_is_not_found(artifacts: Artifacts, folder: Path) -> None:
    unknown = "sha256:" + "0" * 64
    assert not artifacts.exists(unknown)
    for ask in (artifacts.manifest, artifacts.size, artifacts.delete):
        with pytest.raises(NotFound, match=f"No artifact {unknown}"):
            ask(unknown)
    with pytest.raises(NotFound, match=r"'sha256:\.\./x' is no artifact"):
        artifacts.manifest("sha256:../x")
    with pytest.raises(NotFound, match=r"has no file 'd\.txt'\. It has: a\.txt, sub/b\.txt, sub/c\.bin\."):
        artifacts.open_file(artifacts.put(folder), "d.txt")


# What can't be stored


def test_every_unstorable_thing_is_named_and_nothing_is_kept(
    artifacts: Artifacts, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.txt").write_text("x")
    (folder / "out").symlink_to("../outside.txt")
    (folder / "broken").symlink_to("nowhere")
    (folder / "round").symlink_to(".")
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidFile) as raised:
        artifacts.put(folder)
    reasons = {fault.partition(": ")[0].rpartition("/")[2]: fault.partition(": ")[2] for fault in raised.value.faults}
    assert reasons == {
        "out": "a symbolic link that leads out of the folder; put a copy in its place",
        "broken": "a symbolic link to something that isn't a file; put a copy in its place",
        "round": "a symbolic link to something that isn't a file; put a copy in its place",
        "pipe": "neither a file nor a folder",
    }
    assert _files_below(artifacts.root / "blobs") == [] and artifacts.hashes() == []


def test_a_link_to_a_file_inside_is_stored_as_that_file(artifacts: Artifacts, folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to("sub/c.bin")
    out = artifacts.checkout(artifacts.put(folder), tmp_path / "out")
    assert not (out / "link").is_symlink() and (out / "link").read_bytes() == b"other" * 1000


def test_a_name_that_is_no_utf8_is_refused(artifacts: Artifacts, folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_bytes(b"")
    with pytest.raises(InvalidFile) as raised:
        artifacts.put(folder)
    assert raised.value.faults[0].endswith(r"/\udcff: its name isn't UTF-8")
    str(raised.value).encode()
    with pytest.raises(InvalidFile, match="can't be stored: its name isn't UTF-8"):
        artifacts.put(Path(os.fsdecode(os.fsencode(folder) + b"/\xff")))


def test_a_missing_path_and_a_socket_are_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="nothing doesn't exist"):
        artifacts.put(tmp_path / "nothing")
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{short}/s")
        with pytest.raises(InvalidFile, match="neither a file nor a folder"):
            artifacts.put(Path(short) / "s")


# Damage


def _damage(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def test_verify_names_each_damaged_file_and_putting_again_mends_it(artifacts: Artifacts, folder: Path) -> None:
    stored = artifacts.put(folder)
    _damage(artifacts.open_file(stored, "a.txt"), b"SAME")
    artifacts.open_file(stored, "sub/c.bin").unlink()
    assert artifacts.verify(stored) == [
        "a.txt: its bytes were changed",
        "sub/b.txt: its bytes were changed",
        "sub/c.bin: missing",
    ]
    assert artifacts.put(folder) == stored
    assert artifacts.verify(stored) == []


def test_a_file_of_another_length_is_named_with_both(artifacts: Artifacts, folder: Path) -> None:
    stored = artifacts.put(folder / "a.txt")
    _damage(artifacts.open_file(stored, "a.txt"), b"sam")
    assert artifacts.verify(stored) == ["a.txt: has 3 bytes, expected 4"]


def test_a_changed_manifest_is_found_out_before_it_is_believed(
    artifacts: Artifacts, folder: Path, tmp_path: Path
) -> None:
    stored = artifacts.put(folder)
    manifest = artifacts.manifest_path(stored)
    _damage(manifest, manifest.read_bytes().replace(b"a.txt", b"b.txt"))
    with pytest.raises(ArtifactCorrupt, match="the manifest was changed"):
        artifacts.checkout(stored, tmp_path / "out")
    assert artifacts.verify(stored) == [f"{manifest}: the manifest was changed"]


@pytest.mark.parametrize("path", ["../escaped", "/etc/escaped", "a/../../escaped"])
def test_a_manifest_that_leads_elsewhere_is_refused(artifacts: Artifacts, tmp_path: Path, path: str) -> None:
    body = {"kind": "folder", "files": [{"path": path, "sha256": "0" * 64, "size": 1}], "empty_folders": []}
    text = json.dumps(body).encode()
    stored = "sha256:" + hashlib.sha256(text).hexdigest()
    artifacts.manifest_path(stored).parent.mkdir()
    artifacts.manifest_path(stored).write_bytes(text)
    with pytest.raises(ArtifactCorrupt, match="would write outside of its folder"):
        artifacts.checkout(stored, tmp_path / "out")


def test_a_checkout_without_its_bytes_leaves_nothing(artifacts: Artifacts, folder: Path, tmp_path: Path) -> None:
    stored = artifacts.put(folder)
    artifacts.open_file(stored, "sub/c.bin").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"sub/c\.bin: missing"):
        artifacts.checkout(stored, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_while_it_is_stored_is_refused(
    artifacts: Artifacts, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = disk.copy_and_hash

    def write_meanwhile(source: IO[bytes], target: Path, mode: int) -> tuple[str, int]:
        Path(source.name).write_bytes(b"changed")
        return really(source, target, mode)

    monkeypatch.setattr(disk, "copy_and_hash", write_meanwhile)
    with pytest.raises(InvalidFile, match="was written to while it was being stored"):
        artifacts.put(folder)
    assert _files_below(artifacts.root / "blobs") == []


# Collection


def test_collection_frees_what_nothing_keeps_and_leaves_shared_bytes(artifacts: Artifacts, folder: Path) -> None:
    stored, single = artifacts.put(folder), artifacts.put(folder / "a.txt")
    assert artifacts.collect({single}, grace_s=0) == 5000
    assert (artifacts.exists(stored), artifacts.exists(single)) == (False, True)
    assert artifacts.verify(single) == []
    assert artifacts.collect(set(), grace_s=0) == 4
    assert _files_below(artifacts.root / "blobs") == []


def test_collection_leaves_what_was_put_lately_even_if_it_was_stored_long_ago(
    artifacts: Artifacts, folder: Path
) -> None:
    stored = artifacts.put(folder)
    assert artifacts.collect(set()) == 0
    long_ago = time.time() - 7200
    os.utime(artifacts.manifest_path(stored), (long_ago, long_ago))
    artifacts.put(folder)
    assert artifacts.collect(set()) == 0
    os.utime(artifacts.manifest_path(stored), (long_ago, long_ago))
    assert artifacts.collect(set()) == 5004


def test_bytes_that_a_checkout_still_holds_are_not_counted_as_freed(
    artifacts: Artifacts, folder: Path, tmp_path: Path
) -> None:
    stored = artifacts.put(folder)
    out = artifacts.checkout(stored, tmp_path / "out")
    assert artifacts.delete(stored) == 0
    assert (out / "a.txt").read_bytes() == b"same"


def test_deleting_one_artifact_leaves_the_bytes_of_others(artifacts: Artifacts, folder: Path) -> None:
    stored, single = artifacts.put(folder), artifacts.put(folder / "a.txt")
    assert artifacts.delete(stored) == 5000
    assert artifacts.verify(single) == []


def test_collection_deletes_nothing_while_it_is_unknown_what_an_artifact_has(
    artifacts: Artifacts, folder: Path
) -> None:
    damaged, other = artifacts.put(folder), artifacts.put(folder / "a.txt")
    _damage(artifacts.manifest_path(damaged), b"{}")
    with pytest.raises(ArtifactCorrupt, match="the manifest was changed"):
        artifacts.collect({damaged}, grace_s=0)
    assert artifacts.exists(other) and artifacts.verify(other) == []
    assert artifacts.put(folder) == damaged
    artifacts.collect({damaged}, grace_s=0)
    assert artifacts.hashes() == [damaged] and artifacts.verify(damaged) == []
    _damage(artifacts.manifest_path(damaged), b"{}")
    assert artifacts.delete(damaged) == 5004


def test_collection_beside_puts_never_takes_what_they_hold(
    artifacts: Artifacts, folder: Path, start_python: Callable[..., Popen[str]]
) -> None:
    processes = [start_python(PUT_AND_VERIFY, artifacts.root, source) for source in (folder, folder / "sub", folder)]
    while any(process.poll() is None for process in processes):
        artifacts.collect(set(), grace_s=0)
    for process in processes:
        assert process.returncode == 0, process.communicate()[1]
    artifacts.collect(set(), grace_s=0)
    assert artifacts.hashes() == [] and _files_below(artifacts.root / "blobs") == []


@pytest.mark.parametrize("delay_ms", [0, 3, 10, 30, 70])
def test_a_kill_at_any_moment_leaves_whole_artifacts_only(
    artifacts: Artifacts, tmp_path: Path, start_python: Callable[..., Popen[str]], delay_ms: int
) -> None:
    source = _write(tmp_path / "in", {f"{number}.bin": bytes([number]) * 30_000 for number in range(20)})
    process = start_python(PUT_FOREVER, artifacts.root, source)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(delay_ms / 1000)
    process.kill()
    process.wait()
    assert [artifacts.verify(stored) for stored in artifacts.hashes()] in ([], [[]])
    assert artifacts.verify(artifacts.put(source)) == []
    artifacts.collect(set(), grace_s=0)
    assert _files_below(artifacts.root) == [artifacts.root / "lock"]


def test_too_many_links_to_one_file_end_in_a_copy(
    artifacts: Artifacts, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    stored = artifacts.put(folder)
    monkeypatch.setattr(os, "link", refuse)
    out = artifacts.checkout(stored, tmp_path / "out")
    assert (out / "a.txt").read_bytes() == b"same" and (out / "a.txt").stat().st_nlink == 1


def damage(artifacts: Artifacts, stored: str, is_noticed: bool = False) -> Path:
    """Flip a byte of an artifact's only file; its size stays, and its modification time unless `is_noticed`."""
    [file] = artifacts.manifest(stored)
    blob = artifacts.blob_path(file.sha256)
    before = blob.stat()
    blob.chmod(0o644)
    blob.write_bytes(bytes([blob.read_bytes()[0] ^ 1]) + blob.read_bytes()[1:])
    if not is_noticed:
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    return blob


def test_a_check_reads_what_changed(tmp_path: Path) -> None:
    artifacts, source = Artifacts(tmp_path / "store"), tmp_path / "a.txt"
    source.write_text("content")
    stored = artifacts.put(source)
    assert artifacts.check(stored) == []
    damage(artifacts, stored, is_noticed=True)
    assert artifacts.seems_whole(stored)
    assert artifacts.check(stored) == ["a.txt: its bytes were changed"]
    assert artifacts.check(stored) == ["a.txt: its bytes were changed"], "what is damaged is never stamped"
    with pytest.raises(ArtifactCorrupt, match="is damaged"):
        artifacts.require_checked(stored)


def test_a_check_reads_nothing_that_was_hashed_within_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts, source = Artifacts(tmp_path / "store"), tmp_path / "a.txt"
    source.write_text("content")
    stored = artifacts.put(source)
    damage(artifacts, stored)
    assert artifacts.check(stored) == [], "neither its size nor its time tells"
    now = time.time()
    monkeypatch.setattr("mafunzo.control.store.stamp.time", SimpleNamespace(time=lambda: now + 24 * 3600 + 1))
    assert artifacts.check(stored) == ["a.txt: its bytes were changed"]


def test_a_thorough_look_reads_everything_whatever_was_hashed_before(tmp_path: Path) -> None:
    artifacts, source = Artifacts(tmp_path / "store"), tmp_path / "a.txt"
    source.write_text("content")
    stored = artifacts.put(source)
    damage(artifacts, stored)
    with pytest.raises(ArtifactCorrupt) as refusal:
        artifacts.require_intact(stored)
    assert refusal.value.faults == ("a.txt: its bytes were changed",)
    assert artifacts.put(source) == stored
    artifacts.require_intact(stored)


@pytest.mark.parametrize("change", [Path.unlink, lambda blob: (blob.chmod(0o644), blob.write_text("x"))])
def test_what_is_missing_or_of_another_size_is_seen_at_a_look(change: Callable[[Path], object], tmp_path: Path) -> None:
    artifacts, source = Artifacts(tmp_path / "store"), tmp_path / "a.txt"
    source.write_text("content")
    stored = artifacts.put(source)
    change(artifacts.open_file(stored, "a.txt"))
    assert not artifacts.seems_whole(stored)
    assert len(artifacts.check(stored)) == 1
    for use in (lambda: artifacts.open_file(stored, "a.txt"), lambda: artifacts.checkout(stored, tmp_path / "out")):
        with pytest.raises(ArtifactCorrupt, match="is damaged"):
            use()


def test_a_stamp_that_is_lost_or_cut_off_costs_a_hash_and_nothing_else(tmp_path: Path) -> None:
    artifacts, source = Artifacts(tmp_path / "store"), tmp_path / "a.txt"
    source.write_text("content")
    stored = artifacts.put(source)
    for text in ("", "[]", '{"x": 1}', '{"x": ["a", "b"]}'):
        next((tmp_path / "store" / "stamps").glob("*/*.json")).write_text(text)
        assert artifacts.check(stored) == []
