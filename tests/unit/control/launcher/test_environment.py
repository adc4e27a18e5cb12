"""Real virtual environments, filled by a real pip from a folder of wheels; nothing is downloaded."""

import base64
import fcntl
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from mafunzo.control.launcher.environment import environment_folder, last_used_at, make_overlay, setup_command
from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.entities.environment import Environment
from tests.support.step_process import ended
from tests.support.waiting import until

RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with wheels of the package `tiny` 1.0 and 2.0, which has a module and a program of its name."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "2.0"):
        about = f"tiny-{version}.dist-info"
        files = {
            "tiny.py": f"def main():\n    print('tiny {version} runs')\n",
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/entry_points.txt": "[console_scripts]\ntiny = tiny:main\n",
        }
        rows = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()]
        with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)
            wheel.writestr(f"{about}/RECORD", "\n".join([*rows, f"{about}/RECORD,,", ""]))
    return folder


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture(scope="session")
def tiny(wheels: Path) -> Environment:
    return Environment("mine", "1", ("--no-index", f"--find-links {wheels}", "tiny==1.0"))


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, tiny: Environment) -> Path:
    """Return where `tiny` is built already."""
    folder = tmp_path_factory.mktemp("built") / "environments"
    done = run(setup_command(folder, tiny, folder.parent / "overlay"), folder.parent)
    assert done.returncode == 0, done.stdout
    return folder


def run(command: str, directory: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def builder(folder: Path, packages: Sequence[str]) -> "subprocess.Popen[str]":
    overlay = folder.with_name(f"overlay-of-{folder.name}")
    argv = [
        sys.executable,
        "-u",
        "-m",
        "mafunzo.control.launcher.environment",
        str(folder),
        str(overlay),
        sys.executable,
        *packages,
    ]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_command_finds_the_packages_and_none_of_mafunzo_s_own(root: Path, tiny: Environment, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the code of a step must not be imported by what builds')")
    command = "tiny; echo $VIRTUAL_ENV; cd /; python -c 'import tiny, sys; print(sys.prefix)'; python -c 'import yaml'"
    overlay = str(tmp_path / "overlay")
    done = run(
        setup_command(root, tiny, tmp_path / "overlay") + command, tmp_path, PYTHONPATH=os.getcwd(), PYTHONHOME=""
    )
    folder = str(environment_folder(root, tiny))
    assert done.stdout.splitlines()[:4] == [f"Using the environment {folder}", "tiny 1.0 runs", overlay, overlay]
    assert "No module named 'yaml'" in done.stdout


@pytest.mark.slow
def test_what_is_built_is_used_again_as_it_is(root: Path, tiny: Environment, tmp_path: Path) -> None:
    folder = environment_folder(root, tiny)
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    os.utime(f"{folder}.lock", (0, 0))
    done = run(setup_command(root, tiny, tmp_path / "overlay") + "PYTHONDONTWRITEBYTECODE=1 tiny", tmp_path)
    assert last_used_at(folder) == Path(f"{folder}.lock").stat().st_mtime > 0
    assert done.stdout.splitlines() == [f"Using the environment {folder}", "tiny 1.0 runs"]
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before


@pytest.mark.slow
def test_what_a_step_installs_is_its_own(root: Path, tiny: Environment, wheels: Path, tmp_path: Path) -> None:
    """Also programs of the environment itself find it; neither the next step nor the environment does."""
    program = environment_folder(root, tiny) / "bin" / "tiny"
    install = f"pip install -q --no-index -f {wheels} tiny==2.0; tiny; {program}; python -c 'import tiny; tiny.main()'"
    done = run(setup_command(root, tiny, tmp_path / "first") + install, tmp_path)
    assert done.stdout.splitlines()[1:] == ["tiny 2.0 runs"] * 3
    done = run(setup_command(root, tiny, tmp_path / "second") + "tiny", tmp_path)
    assert done.stdout.splitlines()[1:] == ["tiny 1.0 runs"]


@pytest.mark.slow
def test_what_a_step_installs_in_mafunzo_s_own_environment_stays_out_of_it(wheels: Path, tmp_path: Path) -> None:
    make_overlay(tmp_path / "overlay")
    command = f"pip install --no-index -f {wheels} tiny pyyaml; tiny; pip show -f tiny | grep Location"
    done = run(setup_command(tmp_path, Environment("mine", "1"), tmp_path / "overlay") + command, tmp_path)
    assert "Requirement already satisfied: pyyaml" in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        "tiny 2.0 runs",
        f"Location: {next((tmp_path / 'overlay').glob('lib/*/*'))}",
    ]
    assert importlib.util.find_spec("tiny") is None


@pytest.mark.slow
def test_a_step_s_own_python_path_counts(root: Path, tiny: Environment, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.py").write_text("print('found')")
    setup = setup_command(root, tiny, tmp_path / "overlay", str(tmp_path / "mine"))
    assert run(setup + "python -c 'import mine'", tmp_path).stdout.splitlines()[-1] == "found"


@pytest.mark.slow
def test_the_marker_tells_what_was_installed(root: Path, tiny: Environment) -> None:
    record = json.loads((environment_folder(root, tiny) / ".ready").read_text())
    assert record["packages"] == list(tiny.packages) and "tiny==1.0" in record["installed"]


@pytest.mark.slow
def test_a_step_s_log_has_pip_s_lines_and_a_build_that_was_cut_off_is_begun_anew(wheels: Path, tmp_path: Path) -> None:
    """The first pip waits at a pipe for what it is to install, and is killed there; the second finds a file."""
    root, requirements = tmp_path / "environments", tmp_path / "requirements.txt"
    os.mkfifo(requirements)
    environment = Environment("mine", "1", ("--no-index", f"--find-links {wheels}", f"-r {requirements}"))
    folder = environment_folder(root, environment)
    launcher = LocalLauncher()
    launcher.start(setup_command(root, environment, tmp_path / "overlay") + "tiny", tmp_path / "first", {})
    writer = until(lambda: writer_of(requirements))
    launcher.kill(tmp_path / "first", grace_s=0)
    os.close(writer)
    assert folder.exists() and not (folder / ".ready").exists()
    (folder / "left.txt").write_text("by the first")
    requirements.unlink()
    requirements.write_text("tiny==1.0\n")
    launcher.start(setup_command(root, environment, tmp_path / "overlay") + "tiny", tmp_path / "second", {})
    assert ended(tmp_path / "second").exit_code == 0
    log = (tmp_path / "second" / "log.txt").read_text()
    assert f"Removing what an unfinished build left in {folder}" in log
    assert "Successfully installed tiny-1.0" in log and log.endswith("tiny 1.0 runs\n")
    assert not (folder / "left.txt").exists()


def writer_of(pipe: Path) -> int | None:
    """Return a descriptor to write to a named pipe with, or nothing while no process opens it to read."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@pytest.mark.slow
def test_what_can_not_be_installed_is_named_with_pip_s_reason_and_leaves_nothing(wheels: Path, tmp_path: Path) -> None:
    environment = Environment("mine", "1", ("--no-index", f"-f {wheels}", "tiny==9"))
    root, step = tmp_path / "environments", tmp_path / "step"
    LocalLauncher().start(setup_command(root, environment, tmp_path / "overlay") + "echo never", step, {})
    assert ended(step).exit_code == 1
    assert "never" not in (step / "log.txt").read_text()
    record = json.loads((step / "error.json").read_text())
    assert record["code"] == "step_failed"
    assert record["message"] == f"No environment can be built of --no-index, -f {wheels}, tiny==9: pip failed."
    assert record["faults"][-1] == "ERROR: No matching distribution found for tiny==9"
    assert not environment_folder(root, environment).exists()


@pytest.mark.slow
def test_of_two_that_need_one_environment_one_builds_and_the_other_waits(tiny: Environment, tmp_path: Path) -> None:
    folder = environment_folder(tmp_path, tiny)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        both = [builder(folder, tiny.packages) for _ in range(2)]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == f"Waiting for another step that builds the environment {folder}\n"
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Building an environment of" in text for text in said) == 1
    assert all(text.endswith(f"Using the environment {folder}\n") for text in said)


def test_a_pip_that_outlives_its_builder_keeps_the_others_waiting(tmp_path: Path) -> None:
    """A stand-in for `python -m venv` that lasts until it is told: it alone is left when its builder is killed."""
    folder, python = tmp_path / "environment", tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho begun\nread line < {tmp_path / 'go'}\n")
    python.chmod(0o755)
    os.mkfifo(tmp_path / "go")
    overlay = str(tmp_path / "overlay")
    argv = [
        sys.executable,
        "-u",
        "-m",
        "mafunzo.control.launcher.environment",
        str(folder),
        overlay,
        str(python),
        "tiny",
    ]
    first = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert [first.stdout.readline() for _ in range(2)] == ["Building an environment of tiny\n", "begun\n"]
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with Path(f"{folder}.lock").open("w") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tmp_path / "go").write_text("end\n")
        fcntl.flock(lock, fcntl.LOCK_EX)
    first.stdout.close()


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = builder(tmp_path / "file" / "environment", ["tiny"])
    said = process.communicate()[0]
    assert process.returncode == 1
    assert said.startswith(f"error: No environment can be built in {tmp_path / 'file' / 'environment'}: [Errno 17]")


def test_passwords_of_an_index_are_not_in_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    argv = [
        sys.executable,
        "-m",
        "mafunzo.control.launcher.environment",
        str(folder),
        str(tmp_path / "overlay"),
        "/bin/false",
    ]
    done = subprocess.run([*argv, "-i https://ann:secret@host/simple", "tiny"], capture_output=True, text=True)
    assert done.returncode == 1 and "secret" not in done.stdout + done.stderr
    assert "No environment can be built of -i https://***@host/simple, tiny: venv failed." in done.stdout


def test_passwords_of_an_index_are_not_in_argv_but_in_a_file_for_its_user_only(tmp_path: Path) -> None:
    packages = ("-i https://ann:secret@host/simple", "tiny")
    command = setup_command(tmp_path / "environments", Environment("mine", "1", packages), tmp_path / "overlay")
    assert "secret" not in command
    file = tmp_path / ".overlay.requirements"
    assert f"@{file}" in command
    assert (file.read_text().splitlines(), file.stat().st_mode & 0o777) == (list(packages), 0o600)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (Environment("mine", "1"), []),
        (
            Environment("mine", "1", python="3.6", image="mcr.io/it's", conda_packages=("gcc=12", "numpy")),
            [
                f"Python 3.6 isn't used, since no packages of pip are asked for: the step runs with Python {RUNNING}.",
                "Packages of conda aren't installed: gcc=12, numpy. List what the step needs under pip.",
                "The image mcr.io/it's isn't run: the step runs on this machine itself.",
            ],
        ),
    ],
    ids=["nothing asked for", "all of it"],
)
def test_without_packages_a_step_runs_in_mafunzo_s_own_and_is_told_what_is_not_done(
    environment: Environment, told: list[str], tmp_path: Path
) -> None:
    make_overlay(tmp_path / "overlay")
    command = "python -c 'import mafunzo, sys; print(sys.prefix)'"
    done = run(setup_command(tmp_path, environment, tmp_path / "overlay") + command, tmp_path)
    assert done.stdout.splitlines() == [*told, str(tmp_path / "overlay")]
    assert [path.name for path in tmp_path.iterdir()] == ["overlay"]


def test_the_python_asked_for_is_taken_from_path_if_it_can_make_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {"python3.6": "exit 127", "python3.7": 'exec python3 "$@"', "python3.8": f'exec {sys.executable} "$@"'}
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def told(python: str) -> str:
        return setup_command(tmp_path, Environment("mine", "1", ("tiny",), python), tmp_path / "overlay").splitlines()[
            0
        ]

    assert told("3.6") == f"echo 'Python 3.6 isn'\"'\"'t on PATH: the step runs with Python {RUNNING}.'"
    assert f"{sys.executable} @{tmp_path}" in told("3.8") and f"{sys.executable} @" in told(f">=3.8,<{RUNNING}")
    folders = {
        python: environment_folder(tmp_path, Environment("a", "1", ("tiny",), python)) for python in ("", "3.6", "3.8")
    }
    assert folders[""] == folders["3.6"] != folders["3.8"]


def test_a_python_whose_library_is_seen_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_folder, library = tmp_path / "bin", tmp_path / "lib" / "python3.8"
    bin_folder.mkdir()
    (bin_folder / "python3.8").write_bytes(b"\x7fELF, which nobody can start")
    (bin_folder / "python3.8").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")

    def folder(python: str) -> Path:
        return environment_folder(tmp_path, Environment("a", "1", ("tiny",), python))

    assert folder("3.8") == folder("")
    (library / "venv").mkdir(parents=True)
    assert folder("3.8") == folder("")
    (library / "ensurepip").mkdir()
    assert folder("3.8") != folder("")


def test_a_folder_is_named_by_the_packages_alone() -> None:
    root = Path("/root")
    named = environment_folder(root, Environment("a", "1", ("numpy", "scipy")))
    assert named == environment_folder(
        root, Environment("b", "2", ("numpy", "scipy"), RUNNING, {"A": "1"}, "image", ("gcc",))
    )
    assert named != environment_folder(root, Environment("a", "1", ("scipy", "numpy")))
    assert named.parent == root


def test_the_module_loads_the_standard_library_and_entities_only() -> None:
    listing = "import sys, mafunzo.control.launcher.environment; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if name not in sys.stdlib_module_names and not name.startswith("_")} == {"mafunzo"}
