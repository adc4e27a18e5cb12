"""Real processes: what is known of them, and that none is left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mafunzo.control.launcher.local import LocalLauncher, Lost, Running
from mafunzo.errors import Conflict, FailedError
from tests.support.process import lives
from tests.support.step_process import ended, leftovers
from tests.support.waiting import until


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "step"
    LocalLauncher().kill(tmp_path / "step", grace_s=0)


def read_pid(path: Path) -> int:
    until(lambda: path.exists() and path.read_text().strip().isdigit())
    return int(path.read_text())


def test_the_exit_code_and_the_log_of_a_command_are_kept(folder: Path) -> None:
    LocalLauncher().start("echo hello; echo trouble >&2; exit 7", folder, {})
    record = ended(folder)
    assert (record.exit_code, record.signal) == (7, None)
    assert record.started_at <= record.ended_at
    assert (folder / "log.txt").read_text().splitlines() == ["hello", "trouble"]


def test_a_command_may_be_a_list_of_arguments_that_no_shell_touches(folder: Path) -> None:
    LocalLauncher().start(["printf", "%s", "$HOME 'x'"], folder, {})
    assert ended(folder).exit_code == 0
    assert (folder / "log.txt").read_text() == "$HOME 'x'"


def test_the_log_grows_line_by_line_while_python_runs(folder: Path) -> None:
    code = "import time; print('one'); time.sleep(600)"
    LocalLauncher().start(["python", "-c", code], folder, {})
    until(lambda: (folder / "log.txt").read_text() == "one\n")
    assert isinstance(LocalLauncher().status(folder), Running)


def test_another_launcher_adopts_what_runs_and_learns_how_it_ended(folder: Path) -> None:
    started = LocalLauncher().start(
        "read -r line < go; exit $line", folder.parent / "step", {}, directory=_fifo(folder)
    )
    other = LocalLauncher()
    found = other.status(folder)
    assert isinstance(found, Running) and found.pid == started.pid
    (folder.parent / "go").write_text("3\n")
    assert ended(folder).exit_code == 3


def test_a_process_survives_the_one_that_started_it(folder: Path) -> None:
    script = (
        "import os; from pathlib import Path; from mafunzo.control.launcher.local import LocalLauncher;"
        f"LocalLauncher().start('sleep 600', Path({str(folder)!r}), {{}}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert isinstance(LocalLauncher().status(folder), Running)


def test_a_stranger_that_was_given_the_pid_is_not_taken_for_ours(folder: Path) -> None:
    folder.mkdir()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        until(lambda: bool(psutil.Process(stranger.pid).environ()))  # it has none for a moment, while it begins
        start = psutil.Process(stranger.pid).create_time()
        (folder / "process.json").write_text(json.dumps({"pid": stranger.pid, "pid_start": start - 3600}))
        assert isinstance(LocalLauncher().status(folder), Lost)
        (folder / "process.json").write_text(json.dumps({"pid": stranger.pid, "pid_start": start}))
        assert isinstance(LocalLauncher().status(folder), Lost), "it doesn't carry the folder's mark"
        LocalLauncher().kill(folder, grace_s=0)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("moved_s", [-3600.0, -3.0, 3.0, 86400.0])
def test_a_clock_that_was_set_makes_no_stranger_of_our_process(folder: Path, moved_s: float) -> None:
    """psutil counts a start from the clock: the same process seems to have begun at another time."""
    LocalLauncher().start("sleep 600", folder, {})
    record = json.loads((folder / "process.json").read_text())
    (folder / "process.json").write_text(json.dumps({**record, "pid_start": record["pid_start"] + moved_s}))
    assert isinstance(LocalLauncher().status(folder), Running)


def test_what_a_runner_starts_while_it_is_ended_is_ended_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = LocalLauncher()
    launcher.start("echo $$ > pid; exec sleep 600", folder, {})
    pid = read_pid(folder / "pid")
    tree, looks = launcher._tree_of, iter([True, True])
    monkeypatch.setattr(launcher, "_tree_of", lambda *args: [] if next(looks, False) else tree(*args))  # not begun yet
    launcher.kill(folder, grace_s=0.2)
    assert not lives(pid)
    assert launcher.record(folder) is not None


def test_a_process_of_an_earlier_version_is_known_by_its_start(folder: Path) -> None:
    LocalLauncher().start("sleep 600", folder, {})
    record = json.loads((folder / "process.json").read_text())
    del record["identity"]
    (folder / "process.json").write_text(json.dumps(record))
    assert isinstance(LocalLauncher().status(folder), Running)


@pytest.mark.parametrize("part", [0, 1])
def test_the_same_pid_of_another_start_or_after_a_restart_of_the_machine_is_a_stranger(folder: Path, part: int) -> None:
    LocalLauncher().start("sleep 600", folder, {})
    record = json.loads((folder / "process.json").read_text())
    parts = record["identity"].split("/")
    parts[part] = parts[part][:-1] + ("0" if parts[part][-1] != "0" else "1")
    (folder / "process.json").write_text(json.dumps({**record, "identity": "/".join(parts)}))
    assert isinstance(LocalLauncher().status(folder), Lost)


def test_what_was_killed_with_its_runner_is_lost(folder: Path) -> None:
    started = LocalLauncher().start("sleep 600", folder, {})
    until(lambda: len(leftovers(folder)) == 1)  # the command has begun
    os.kill(started.pid, signal.SIGKILL)
    launcher = LocalLauncher()
    until(lambda: isinstance(launcher.status(folder), Lost))
    assert launcher.was_cut_off(folder)
    until(lambda: len(leftovers(folder)) == 1)
    launcher.kill(folder, grace_s=0)
    assert leftovers(folder) == []


def test_a_killed_command_leaves_the_signal_in_its_record(folder: Path) -> None:
    LocalLauncher().start("kill -9 $$", folder, {})
    record = ended(folder)
    assert (record.exit_code, record.signal, record.is_killed, record.is_out_of_memory) == (137, 9, True, False)


def test_a_runner_that_was_killed_before_it_began_is_lost(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.kill(os.getpid(), 9)")
    launcher = LocalLauncher()
    launcher.start("true", folder, {"PYTHONPATH": str(tmp_path)})
    assert isinstance(launcher.status(folder), Lost) and launcher.was_cut_off(folder)


def test_a_runner_that_can_not_begin_says_why(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.stderr.write('no luck'); sys.stderr.flush(); import os; os._exit(3)"
    )
    with pytest.raises(FailedError, match="ended before it began") as caught:
        LocalLauncher().start("true", folder, {"PYTHONPATH": str(tmp_path)})
    assert caught.value.faults == ("no luck",)


def test_nothing_can_start_in_a_folder_that_was_given_up(folder: Path) -> None:
    assert isinstance(LocalLauncher().status(folder), Lost)
    with pytest.raises(Conflict, match="Start in a new folder"):
        LocalLauncher().start("true", folder, {})


def test_a_runner_that_starts_too_late_finds_the_folder_given_up(folder: Path) -> None:
    assert isinstance(LocalLauncher().status(folder), Lost)
    late = [sys.executable, "-m", "mafunzo.control.launcher.runner", str(folder), "1", "touch", str(folder / "ran")]
    assert subprocess.run(late, check=False).returncode == 0
    assert not (folder / "ran").exists() and not (folder / "exit.json").exists()


def test_a_folder_is_used_once(folder: Path) -> None:
    LocalLauncher().start("true", folder, {})
    with pytest.raises(Conflict):
        LocalLauncher().start("true", folder, {})


def test_kill_ends_grandchildren_also_in_their_own_session_and_deaf_to_sigterm(folder: Path) -> None:
    command = (
        "sleep 600 & echo $! > one;"
        "setsid sleep 600 & setsid bash -c 'echo $$ > two; exec sleep 600' &"
        "bash -c 'trap \"\" TERM; echo $$ > three; while :; do sleep 1; done' &"
        "setsid setsid bash -c '(echo $BASHPID > four; exec sleep 600) & exit' &"
        "wait"
    )
    launcher = LocalLauncher()
    started = launcher.start(command, folder, {})
    pids = [read_pid(folder / name) for name in ("one", "two", "three", "four")]
    assert all(lives(pid) for pid in pids)
    launcher.kill(folder, grace_s=0.3)
    assert not any(lives(pid) for pid in [started.pid, *pids])
    assert leftovers(folder) == []
    launcher.kill(folder, grace_s=0.3)


def test_what_was_killed_had_its_grace_and_its_record_is_written(folder: Path) -> None:
    LocalLauncher().start("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done", folder, {})
    until(lambda: "ready" in (folder / "log.txt").read_text())
    LocalLauncher().kill(folder, grace_s=30)
    assert ended(folder).exit_code == 5
    assert "bye" in (folder / "log.txt").read_text()


def test_several_processes_get_their_ranks_and_a_port(folder: Path) -> None:
    command = "echo $RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR:$MASTER_PORT"
    LocalLauncher().start(command, folder, {}, processes=3)
    assert ended(folder).exit_code == 0
    logs = [(folder / name).read_text().split() for name in ("log.txt", "log.1.txt", "log.2.txt")]
    assert [log[0] for log in logs] == ["0/3", "1/3", "2/3"]
    assert len({log[2] for log in logs}) == 1 and logs[0][2].startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("says", "told"),
    [("echo no luck", "; the last lines of log.1.txt:\nno luck\n"), ("true", ", and had printed nothing.\n")],
)
def test_one_of_several_processes_that_fails_ends_the_others_and_says_why(folder: Path, says: str, told: str) -> None:
    command = f'if [ "$RANK" = 1 ]; then {says}; exit 4; else exec sleep 600; fi'
    LocalLauncher().start(command, folder, {}, processes=2)
    assert ended(folder).exit_code == 4
    assert (folder / "log.txt").read_text() == f"process 1 ended with 4{told}"


def test_peak_memory_counts_the_whole_tree(folder: Path) -> None:
    hold = "x = bytearray(80_000_000); import sys; print('held', flush=True); sys.stdin.read()"
    command = f'mkfifo go; for i in 1 2; do (cat go | python -c "{hold}") & done; wait'
    LocalLauncher().start(command, folder, {})
    until(lambda: (folder / "log.txt").read_text().count("held") == 2)
    runner = psutil.Process(json.loads((folder / "process.json").read_text())["pid"])
    looks = runner.num_ctx_switches().voluntary  # it sleeps between two looks at the tree's memory
    until(lambda: runner.num_ctx_switches().voluntary > looks + 2)
    for _ in range(2):
        until(lambda: _writes(folder / "go") or not isinstance(LocalLauncher().status(folder), Running))
    assert ended(folder).peak_memory_mb > 150


def test_a_command_that_does_not_exist_says_so(folder: Path) -> None:
    LocalLauncher().start(["/no/such/program"], folder, {})
    assert ended(folder).exit_code == 127
    assert "/no/such/program can't be started" in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("inherited", "environment", "value"),
    [
        pytest.param({}, {}, "default", id="nothing else says it"),
        pytest.param({"SOME": "inherited"}, {}, "inherited", id="inherited"),
        pytest.param({"SOME": "inherited"}, {"SOME": "own"}, "own", id="the command's own"),
    ],
)
def test_a_default_variable_yields_to_any_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, inherited: dict[str, str], environment: dict[str, str], value: str
) -> None:
    for name, text in inherited.items():
        monkeypatch.setenv(name, text)
    LocalLauncher().start("echo value=$SOME", folder, environment, defaults={"SOME": "default"})
    ended(folder)
    assert (folder / "log.txt").read_text() == f"value={value}\n"


def test_the_database_url_is_kept_from_children(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAFUNZO_DATABASE_URL", "postgresql://user:password@host/name")
    LocalLauncher().start("env", folder, {"GIVEN": "yes"})
    ended(folder)
    log = (folder / "log.txt").read_text()
    assert "password" not in log and "GIVEN=yes" in log and f"MAFUNZO_STEP_FOLDER={folder}" in log


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder.parent / "go")
    return folder.parent


def _writes(fifo: Path) -> bool:
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
