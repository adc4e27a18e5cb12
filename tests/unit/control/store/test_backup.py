import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import pytest

from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.backup import INDEX, backup, restore
from mafunzo.control.store.database import Database
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.endpoint import Endpoint
from mafunzo.entities.job import Resources
from mafunzo.errors import ArtifactCorrupt, Conflict, HomeInUse, InvalidFile, NewerHome

KEY = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, "chat", "1")
KEEP_WRITING = """
import secrets, sys
from pathlib import Path
from mafunzo.entities.asset import Asset, AssetKey, AssetType, FolderType
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.home import Home
from mafunzo.control.store.records import Records
home = Home(Path(sys.argv[1]))
records, artifacts = Records(open_database(home, sys.argv[2] or None)), Artifacts(home.artifacts)
log = (home.logs / "log.txt").open("a", buffering=1)
number = 0
while True:
    number += 1
    source = home.jobs / "out"
    source.write_bytes(secrets.token_bytes(20_000))
    asset = Asset(AssetKey("workspace", AssetType.DATA, "d", str(number)), FolderType.URI_FILE, artifacts.put(source))
    records.assets.add(asset)
    log.write(f"added {number}\\n")
    if number == 3:
        print("running", flush=True)
    if number % 5 == 0:
        records.assets.delete(asset.key)
        artifacts.collect(records.referenced_artifacts(), grace_s=0)
"""

LEAVE_LAST = """
import sys
from pathlib import Path
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.home import Home
from mafunzo.control.store.records import Records
database = open_database(Home(Path(sys.argv[1])))
print([asset.version for asset in Records(database).assets.list()])
database.close()
"""


@pytest.fixture
def filled(home: Home, database: Database, artifacts: Artifacts, tmp_path: Path) -> str:
    """A home with an artifact, records, a job's folder, a log, another SQLite file; return the artifact."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "weights.bin").write_bytes(b"w" * 5000)
    (source / "sub" / "config.json").write_text("{}")
    stored = artifacts.put(source)
    records = Records(database)
    records.assets.add(Asset(KEY, FolderType.CUSTOM_MODEL, stored))
    records.endpoints.add(Endpoint("chat"), ("first-key", "second-key"))
    Leases(database).take("worker", Resources(1), Resources(2))
    step = home.jobs / "job" / "step" / "1"
    (step / "outputs").mkdir(parents=True)
    artifacts.checkout(stored, step / "inputs" / "model")
    (step / "log.txt").write_text("line\n")
    (home.workers / "chat").mkdir()
    (home.workers / "chat" / "port").write_text("8001")
    (home.root / "server.json").write_text("{}")
    other = sqlite3.connect(home.root / "mlflow.db")
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE t (x)")
    other.execute("INSERT INTO t VALUES (42)")
    other.commit()
    return stored


@pytest.fixture
def tar(home: Home, database: Database, artifacts: Artifacts, filled: str, tmp_path: Path) -> Path:
    file = tmp_path / "home.tar"
    backup(home, database, artifacts, file)
    return file


@pytest.fixture
def empty(tmp_path: Path) -> Home:
    return Home(tmp_path / "empty")


def _files(home: Home) -> list[str]:
    return sorted(path.relative_to(home.root).as_posix() for path in home.root.rglob("*") if path.is_file())


def test_a_restored_home_is_the_home(
    home: Home, database: Database, tar: Path, empty: Home, filled: str, url: str | None
) -> None:
    restore(tar, empty)
    restored = open_database(empty)
    records = Records(restored)
    assert records.assets.list() == Records(database).assets.list()
    assert records.endpoints.keys("chat") == ("first-key", "second-key")
    assert Artifacts(empty.artifacts).verify(filled) == []
    step = empty.jobs / "job" / "step" / "1"
    assert (step / "log.txt").read_text() == "line\n" and (step / "outputs").is_dir()
    weights = step / "inputs" / "model" / "weights.bin"
    assert weights.stat().st_ino == Artifacts(empty.artifacts).open_file(filled, "weights.bin").stat().st_ino
    assert sqlite3.connect(empty.root / "mlflow.db").execute("SELECT x FROM t").fetchall() == [(42,)]
    assert oct(empty.root.stat().st_mode)[-3:] == oct((empty.database).stat().st_mode)[-3:] == "700"
    assert oct((empty.root / "secret.key").stat().st_mode)[-3:] == "600"
    restored.close()


def test_what_lives_only_while_a_home_runs_is_left_out(tar: Path, empty: Home) -> None:
    restore(tar, empty)
    assert Leases(open_database(empty)).list() == []
    assert not {"server.json", "workers/chat/port", "mlflow.db-wal"} & set(_files(empty))
    assert not list(empty.root.glob(".restore-*"))


def test_a_backup_is_for_its_owner_only_and_holds_shared_bytes_once(tar: Path) -> None:
    assert oct(tar.stat().st_mode)[-3:] == "600"
    with tarfile.open(tar) as opened:
        assert sum(member.size == 5000 for member in opened) == 1
        assert all(member.isreg() for member in opened)


def test_a_backup_restores_into_postgresql_from_either_database(
    database: Database, tar: Path, empty: Home, new_postgresql_database: Callable[[], str]
) -> None:
    target = new_postgresql_database()
    restore(tar, empty, target)
    restored = open_database(empty, target)
    assert Records(restored).assets.list() == Records(database).assets.list()
    assert not (empty.database / "mafunzo.db").exists()
    restored.close()


def test_a_backup_of_a_home_in_use_is_whole(
    home: Home,
    database: Database,
    artifacts: Artifacts,
    filled: str,
    tmp_path: Path,
    empty: Home,
    url: str | None,
    start_python: Callable[..., Popen[str]],
) -> None:
    writer = start_python(KEEP_WRITING, home.root, url or "")
    assert writer.stdout is not None and writer.stdout.readline() == "running\n", writer.communicate()[1]
    for number in range(3):
        backup(home, database, artifacts, tmp_path / f"{number}.tar")
    assert writer.poll() is None, writer.communicate()[1]
    writer.kill()
    restore(tmp_path / "2.tar", empty)
    restored = open_database(empty)
    named = Records(restored).referenced_artifacts()
    assert len(named) >= 3
    assert [fault for artifact in named for fault in Artifacts(empty.artifacts).verify(artifact)] == []
    restored.close()


def test_a_backup_may_lie_inside_of_the_home(home: Home, database: Database, artifacts: Artifacts, filled: str) -> None:
    for number in range(2):
        backup(home, database, artifacts, home.backups / f"{number}.tar")
    backup(home, database, artifacts, home.root / "beside.tar")
    with tarfile.open(home.root / "beside.tar") as opened:
        assert not [name for name in opened.getnames() if name.endswith(".tar")]


def test_an_existing_file_is_not_overwritten(home: Home, database: Database, artifacts: Artifacts, tar: Path) -> None:
    before = tar.read_bytes()
    with pytest.raises(Conflict, match=r"home\.tar exists already"):
        backup(home, database, artifacts, tar)
    with pytest.raises(InvalidFile, match="nowhere isn't a folder"):
        backup(home, database, artifacts, tar.parent / "nowhere" / "home.tar")
    assert tar.read_bytes() == before


def test_damaged_bytes_are_named_and_no_backup_is_left(
    home: Home, database: Database, artifacts: Artifacts, filled: str, tmp_path: Path
) -> None:
    blob = artifacts.open_file(filled, "weights.bin")
    blob.chmod(0o644)
    blob.write_bytes(b"v" * 5000)
    with pytest.raises(ArtifactCorrupt, match=f"{blob}: its bytes were changed"):
        backup(home, database, artifacts, tmp_path / "home.tar")
    blob.unlink()
    with pytest.raises(ArtifactCorrupt, match=f"{blob}: missing"):
        backup(home, database, artifacts, tmp_path / "home.tar")
    assert not [path for path in tmp_path.iterdir() if "tar" in path.name]


def test_a_file_that_takes_the_inode_of_one_that_is_gone_is_itself(
    home: Home, database: Database, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system gives a new file the number of one that was just deleted, such as the backup's own copy of another file."""
    for name in ("a", "b"):
        (home.logs / name).write_text(name)
    (home.root / "responses").mkdir()
    later, copyfile = home.root / "responses" / "later.json", shutil.copyfile

    def copy(source: Path, target: Path) -> None:
        copyfile(source, target)
        if source.name == "a":
            os.link(target, later)
        elif source.name == "b":
            later.write_text("later")

    monkeypatch.setattr(shutil, "copyfile", copy)
    backup(home, database, artifacts, tmp_path / "backup.tar")
    with tarfile.open(tmp_path / "backup.tar") as tar:
        file = tar.extractfile("responses/later.json")
        assert file is not None and file.read() == b"later"


def test_symbolic_links_and_sockets_are_left_out(
    home: Home, database: Database, artifacts: Artifacts, filled: str, tmp_path: Path, empty: Home
) -> None:
    (home.jobs / "link").symlink_to("/etc/passwd")
    os.mkfifo(home.jobs / "pipe")
    backup(home, database, artifacts, tmp_path / "home.tar")
    restore(tmp_path / "home.tar", empty)
    assert not os.path.lexists(empty.jobs / "link") and not (empty.jobs / "pipe").exists()


def test_files_that_only_look_like_those_of_sqlite_are_kept(
    home: Home, database: Database, artifacts: Artifacts, filled: str, tmp_path: Path, empty: Home
) -> None:
    for name, content in (
        ("run", b"a"),
        ("run-wal", b"b"),
        (".restore-x", b"c"),
        ("fake.db", b"SQLite format 3\0 or not"),
    ):
        (home.jobs / name).write_bytes(content)
    backup(home, database, artifacts, tmp_path / "home.tar")
    restore(tmp_path / "home.tar", empty)
    for name in ("run", "run-wal", ".restore-x", "fake.db"):
        assert (empty.jobs / name).read_bytes() == (home.jobs / name).read_bytes()


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_a_backup_leaves_the_locks_on_the_database_in_use(
    home: Home, database: Database, artifacts: Artifacts, tar: Path, start_python: Callable[..., Popen[str]]
) -> None:
    records = Records(database)
    with database.snapshot():
        assert start_python(LEAVE_LAST, home.root).wait() == 0
        assert (home.database / "mafunzo.db-wal").exists()
    records.assets.add(Asset(replace(KEY, version="2"), FolderType.CUSTOM_MODEL))
    restored = start_python(LEAVE_LAST, home.root)
    assert restored.communicate()[0] == "['2', '1']\n"


# Refused restores: each leaves the home as empty as it was


def _rewrite(tar: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Return a copy of the tar with other files in it."""
    with tarfile.open(tar) as opened:
        files = {member.name: (opened.extractfile(member) or io.BytesIO()).read() for member in opened}
    change(files)
    target = tar.with_name("changed.tar")
    with tarfile.open(target, "w") as opened:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return target


def _with_index(files: dict[str, bytes], /, **changes: object) -> None:
    index = json.loads(files[INDEX]) | changes
    files[INDEX] = json.dumps(index).encode()


def _refused(file: Path, empty: Home) -> str:
    with pytest.raises((ArtifactCorrupt, InvalidFile, NewerHome)) as raised:
        restore(file, empty)
    assert _files(empty) == ["server.lock"]
    assert not list(empty.root.glob(".restore-*"))
    return f"{type(raised.value).__name__}: {raised.value}"


def _escape(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        entry = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1, "mode": 0o644}
        _with_index(files, files=json.loads(files[INDEX])["files"] | {name: entry})
        index = files.pop(INDEX)
        files |= {name: b"x", INDEX: index}

    return change


def _change_blob(files: dict[str, bytes]) -> None:
    name = next(name for name, content in files.items() if content == b"w" * 5000)
    files[name] = b"v" * 5000


def _change_blob_and_index(files: dict[str, bytes]) -> None:
    _change_blob(files)
    entries = json.loads(files[INDEX])["files"]
    name = next(name for name, content in files.items() if content == b"v" * 5000)
    entries[name]["sha256"] = hashlib.sha256(b"v" * 5000).hexdigest()
    _with_index(files, files=entries)


def _drop_log(files: dict[str, bytes]) -> None:
    del files["jobs/job/step/1/log.txt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(_escape("../escaped"), "InvalidFile: .*'../escaped' would write outside", id="a name with .."),
        pytest.param(_escape("/tmp/escaped"), "'/tmp/escaped' would write outside", id="an absolute name"),
        pytest.param(_escape("jobs/../../escaped"), "would write outside", id="a name that climbs"),
        pytest.param(_change_blob, "ArtifactCorrupt: .*isn't as it was written", id="changed bytes"),
        pytest.param(
            _change_blob_and_index, "damaged artifacts.*weights.bin: missing or changed", id="changed with index"
        ),
        pytest.param(_drop_log, r"jobs/job/step/1/log\.txt: missing", id="a missing file"),
        pytest.param(lambda files: files.update({"jobs/new": b""}), "jobs/new: not in the index", id="an added file"),
        pytest.param(lambda files: files.pop(INDEX), "InvalidFile: .*has no mafunzo-backup.json", id="no index"),
        pytest.param(
            lambda files: files.update({INDEX: b"{"}), "its mafunzo-backup.json can't be read", id="a bad index"
        ),
        pytest.param(
            lambda files: _with_index(files, format=2), "NewerHome: .*pip install -U mafunzo", id="a newer one"
        ),
        pytest.param(
            lambda files: _with_index(files, links={"../out": "secret.key"}), "would write outside", id="a link out"
        ),
        pytest.param(
            lambda files: _with_index(files, links={"jobs/in": "/etc/passwd"}), "would write outside", id="a link in"
        ),
        pytest.param(lambda files: _with_index(files, folders=["../out"]), "would write outside", id="a folder out"),
    ],
)
@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_a_tampered_backup_is_refused_whole(
    tar: Path, empty: Home, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    assert re.search(said, _refused(_rewrite(tar, change), empty), re.DOTALL)
    assert not (empty.root.parent / "escaped").exists() and not (empty.root.parent / "out").exists()


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_tar_with_anything_but_files_is_refused(tar: Path, empty: Home, kind: bytes) -> None:
    with tarfile.open(tar, "a") as opened:
        info = tarfile.TarInfo("jobs/link")
        info.type, info.linkname = kind, "/etc/passwd"
        opened.addfile(info)
    assert "'jobs/link' would write outside" in _refused(tar, empty)


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_backup_that_was_cut_off_is_refused(tar: Path, empty: Home, share: float) -> None:
    content = tar.read_bytes()
    end = content.rindex(INDEX.encode())
    tar.write_bytes(content[: int(end * share)])
    assert "InvalidFile" in _refused(tar, empty)


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_what_is_no_tar_is_refused(tar: Path, empty: Home, tmp_path: Path) -> None:
    assert "can't be read as a backup" in _refused(tmp_path / "missing.tar", empty)
    tar.write_text("text")
    assert "can't be read as a backup" in _refused(tar, empty)


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_a_home_that_is_used_or_held_is_never_restored_into(tar: Path, empty: Home) -> None:
    with empty.lock(), pytest.raises(HomeInUse):
        restore(tar, empty)
    (empty.jobs / "file").write_text("mine")
    with pytest.raises(Conflict, match="isn't empty: it has jobs/file"):
        restore(tar, empty)
    assert (empty.jobs / "file").read_text() == "mine"


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_a_restored_home_can_be_backed_up_and_restored_again(
    tar: Path, empty: Home, tmp_path: Path, filled: str
) -> None:
    restore(tar, empty)
    with open_database(empty).transaction():
        pass
    records = Records(open_database(empty))
    records.assets.update(replace(records.assets.get(KEY), tags={"again": "yes"}))
    backup(empty, open_database(empty), Artifacts(empty.artifacts), tmp_path / "again.tar")
    third = Home(tmp_path / "third")
    restore(tmp_path / "again.tar", third)
    assert Records(open_database(third)).assets.get(KEY).tags == {"again": "yes"}
    assert Artifacts(third.artifacts).verify(filled) == []


def test_the_reserve_of_the_disk_is_no_part_of_a_backup(home: Home, tmp_path: Path) -> None:
    (home.root / "reserve").write_bytes(b"x" * 1000)
    backup(home, open_database(home), Artifacts(home.artifacts), tmp_path / "home.tar")
    with tarfile.open(tmp_path / "home.tar") as tar:
        assert not [name for name in tar.getnames() if "reserve" in name]
