import errno
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

from mafunzo.control.store.home import FOLDERS, Home
from mafunzo.errors import HomeInUse, InvalidFile, RefusedError

HOLD = """
import sys
from pathlib import Path
from mafunzo.control.store.home import Home
with Home(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read() or __import__("time").sleep(60)
"""
PRINT_SECRET = """
import sys
from pathlib import Path
from mafunzo.control.store.home import Home
print(Home(Path(sys.argv[1])).secret().hex())
"""


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_is_for_its_owner_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    assert [_mode(path) for path in (home.root, *(home.root / name for name in FOLDERS))] == [0o700] * 7
    assert _mode(home.root / "secret.key" if home.secret() else home.root) == 0o600


def test_a_home_where_a_file_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidFile, match="file can't be a home folder"):
        Home(tmp_path / "file")


def test_a_second_holder_is_told_the_pid_of_the_first(home: Home, start_python: Callable[..., Popen[str]]) -> None:
    holder = start_python(HOLD, home.root)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert home.holder() == holder.pid
    with pytest.raises(HomeInUse, match=f"in use by a server with pid {holder.pid}"), home.lock():
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert home.holder() is None
    with home.lock():
        assert home.holder() == os.getpid()
    assert home.holder() is None


def test_a_home_is_free_again_after_its_server_failed(home: Home) -> None:
    with pytest.raises(RuntimeError), home.lock():
        raise RuntimeError
    with home.lock():
        pass


def test_the_secret_is_made_once(home: Home) -> None:
    assert len(home.secret()) == 32
    assert home.secret() == Home(home.root).secret()


def test_processes_that_make_the_secret_at_once_agree(home: Home, start_python: Callable[..., Popen[str]]) -> None:
    processes = [start_python(PRINT_SECRET, home.root) for _ in range(5)]
    assert {process.communicate()[0].strip() for process in processes} == {home.secret().hex()}
    assert sorted(path.name for path in home.root.glob("*secret*")) == ["secret.key"]


def test_a_secret_that_others_can_read_is_refused(home: Home) -> None:
    home.secret()
    (home.root / "secret.key").chmod(0o640)
    with pytest.raises(RefusedError, match="chmod 600"):
        home.secret()


def test_a_sealed_text_can_be_read_in_its_own_home(home: Home) -> None:
    sealed = home.seal("a key with ünïcode")
    assert "key" not in sealed
    assert home.unseal(sealed) == "a key with ünïcode"


def test_a_text_sealed_in_another_home_is_refused_with_what_to_do(home: Home, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"under another secret than its secret\.key"):
        home.unseal(Home(tmp_path / "other").seal("key"))


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    with home.lock():
        pass

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with home.lock(), pytest.raises(HomeInUse), home.lock():
        pass
