"""The environment of a user's step: a virtual environment with pip's packages, built once and cached.

`setup_command` is what a step's shell runs before the step's own command. It starts this module in the step's process tree,

    python -m mafunzo.control.launcher.environment FOLDER OVERLAY PYTHON PACKAGES...|@FILE

so that pip's lines are in the step's log, and that what ends the step ends pip. FOLDER is named by what decides its content,
and is whole once it holds `.ready`, which is written last. Who builds it holds `FOLDER.lock`, and the others wait.
FILE holds the packages, a line each, and only its user can read it: the URL of an index may have a password in it, and argv is
everybody's to read.

OVERLAY is the step's own, on top of it: a virtual environment for what the step installs for itself. With
`pip install -r requirements.txt && python train.py` pip finds what is there already, and puts what it adds into the step's
folder: the environments that steps share, and Mafunzo's own, stay as they are. pip leaves alone what lies outside of its
prefix.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mafunzo.control.store.disk import remove_tree
from mafunzo.entities.environment import Environment
from mafunzo.errors import Conflict, FailedError, MafunzoError, StepFailed
from mafunzo.tracking.atomic_json import write_json, write_text
from mafunzo.tracking.step_folder import STEP_FOLDER, StepFolder

logger = logging.getLogger(__name__)

ENVIRONMENTS_FOLDER = "environments"
"""Where in a home the virtual environments of users' steps are."""
READY_FILE = ".ready"
REQUIREMENTS_FILE = "requirements.txt"
OURS_ONLY = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Variables that would lead another Python to Mafunzo's own packages."""
MINORS = range(30, 5, -1)
"""The versions 3.x that are looked for, the newest first."""
PROBE_TIMEOUT_S = 60
POLL_S = 0.1
LAST_LINES = 5
CONFIGURATION = "pyvenv.cfg"
_BASE_FILE = "_base.pth"
_PIP = '#!/bin/sh\nexec "$(dirname "$0")/python" -m pip "$@"\n'


@dataclass(frozen=True)
class Interpreter:
    """A Python that can make virtual environments; version: major and minor."""

    path: str
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"Python {self.version[0]}.{self.version[1]}"


@dataclass
class _CommandFailed(Exception):
    """A command ended with an exit code; lines: all that it said."""

    what: str
    exit_code: int
    lines: Sequence[str]


def environment_folder(root: Path, environment: Environment) -> Path:
    """Return where an environment lies under `root`: named by the Python in use, the platform and the packages."""
    content = [str(_interpreter(environment)), sysconfig.get_platform(), *environment.packages]
    return root.absolute() / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def is_ready(folder: Path) -> bool:
    """Return whether an environment is whole, and the Python that it was made of still there."""
    return (folder / READY_FILE).exists() and (folder / "bin" / "python").exists()


def remove(folder: Path) -> None:
    """Delete an environment that is built; raises `Conflict` while it is being built."""
    try:
        with _lock(folder, wait=False):
            (folder / READY_FILE).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError as error:
        raise Conflict(f"The environment {folder} is being built. Delete it when that step has begun.") from error


def remove_unless(folder: Path, is_needed: Callable[[], bool]) -> bool:
    """Delete an environment, or what a build of one left, unless it is being built or needed; return whether it is gone.

    No step can take it meanwhile: one that saw `.ready` before it went stands in a row that `is_needed` then finds.
    """
    try:
        with _lock(folder, wait=False):
            ready, hidden = folder / READY_FILE, folder / f"{READY_FILE}.pruned"
            if ready.exists():
                ready.rename(hidden)
            if is_needed():
                if hidden.exists():
                    hidden.rename(ready)
                return False
            remove_tree(folder)
            return True
    except BlockingIOError:
        return False


def last_used_at(folder: Path) -> float:
    """Return when a step last began to use an environment, or to build it, in seconds since the epoch."""
    return max(path.stat().st_mtime for path in (folder, folder / READY_FILE, _lock_file(folder)) if path.exists())


def setup_command(root: Path, environment: Environment, overlay: Path, python_path: str = "") -> str:
    """Return bash's lines that give the commands after them an environment, built first if it isn't there.

    The shell ends with pip's exit code where it can't be built. An environment without packages is Mafunzo's own, of which
    `overlay` must have been made; for the others it is made when they are there, and their requirements are written beside it.
    python_path: where the step wants its Python to look.
    """
    interpreter = _interpreter(environment)
    lines = [f"echo {shlex.quote(note)}" for note in _notes(environment, interpreter)]
    if environment.packages:
        folder = environment_folder(root, environment)
        requirements = overlay.with_name(f".{overlay.name}.requirements")
        write_text(requirements, "".join(f"{line}\n" for line in environment.packages), mode=0o600)
        build = [
            sys.executable,
            "-P",
            "-m",
            "mafunzo.control.launcher.environment",
            str(folder),
            str(overlay),
            interpreter.path,
            f"@{requirements}",
        ]
        lines += [
            f"{shlex.join(build)} || exit $?",
            f"unset {' '.join(OURS_ONLY)}",
            f'export PATH={shlex.quote(str(folder / "bin"))}:"$PATH" PYTHONPATH={shlex.quote(python_path)}',
        ]
    programs, packages = overlay / "bin", site_packages(overlay, interpreter.version)
    # By PYTHONPATH programs of the environment itself, such as torchrun, find what the step installs.
    lines.append(
        f'export VIRTUAL_ENV={shlex.quote(str(overlay))} PATH={shlex.quote(str(programs))}:"$PATH" '
        f'PYTHONPATH={shlex.quote(str(packages))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
    )
    return "".join(f"{line}\n" for line in lines)


def make_overlay(folder: Path, base: Path | None = None) -> None:
    """Make a virtual environment in `folder` that has all that the one in `base` has, by default what we run in ourselves.

    It appears whole or not at all, and several processes of a step may make it at once.
    """
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    base = base or Path(sys.prefix)
    if (base / CONFIGURATION).exists():
        libraries = sorted(path.resolve() for path in base.glob("lib/python3*/site-packages"))
        packages = draft / "lib" / libraries[0].parent.name / "site-packages"
        packages.mkdir(parents=True)
        shutil.copyfile(base / CONFIGURATION, draft / CONFIGURATION)
        lines = [f"import site; site.addsitedir({str(path)!r})\n" for path in libraries]
        (packages / _BASE_FILE).write_text("".join(lines), encoding="utf-8")
    else:  # no virtual environment: its packages are the system's
        packages = site_packages(draft, sys.version_info[:2])
        packages.mkdir(parents=True)
        text = f"home = {Path(sys.executable).parent}\ninclude-system-site-packages = true\n"
        (draft / CONFIGURATION).write_text(text, encoding="utf-8")
    _add_programs(draft / "bin", base / "bin" / "python", packages.parent.name)
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)
        if not (folder / CONFIGURATION).exists():  # else another process of the step was first
            raise


def site_packages(folder: Path, version: tuple[int, int]) -> Path:
    """Return where the packages of a virtual environment lie, for Python `version`."""
    return folder / "lib" / f"python{version[0]}.{version[1]}" / "site-packages"


def main(argv: Sequence[str]) -> int:
    """Build an environment unless it is there; return 0, or the exit code of what failed."""
    folder, overlay, python, packages = Path(argv[0]), Path(argv[1]), argv[2], _lines(argv[3:])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_ready(folder):
            with _lock(folder) as lock:
                if not is_ready(folder):
                    _build(folder, python, packages, lock)
        _lock_file(folder).touch(mode=0o600)  # its last use, by which it is pruned
        make_overlay(overlay, folder)
        _await_cores()
    except _CommandFailed as failure:
        reason = [line for line in failure.lines if line.startswith("ERROR:")] or failure.lines[-LAST_LINES:]
        _tell(
            StepFailed(f"No environment can be built of {_without_passwords(packages)}: {failure.what} failed.", reason)
        )
        return failure.exit_code
    except OSError as error:
        _tell(FailedError(f"No environment can be built in {folder}: {error}"))
        return FailedError.exit_code
    logger.info("Using the environment %s", folder)
    return 0


def _lines(packages: Sequence[str]) -> list[str]:
    if len(packages) == 1 and packages[0].startswith("@"):
        return Path(packages[0][1:]).read_text(encoding="utf-8").splitlines()
    return list(packages)


def _await_cores() -> None:
    """Wait for the step's cores, where it was started without them because its environment had to be built."""
    folder = os.environ.get(STEP_FOLDER)
    if not folder or not StepFolder(Path(folder)).without_cores.exists():
        return
    StepFolder(Path(folder)).built.touch()
    while StepFolder(Path(folder)).without_cores.exists():
        time.sleep(POLL_S)


def _interpreter(environment: Environment) -> Interpreter:
    """Return the Python to use: ours where it is allowed, else the newest allowed one on PATH, else ours all the same."""
    ours = Interpreter(sys.executable, sys.version_info[:2])
    if not environment.packages or environment.allows_python(ours.version):
        return ours
    for version in ((3, minor) for minor in MINORS):
        if environment.allows_python(version) and (path := _python_on_path(version)) is not None:
            return Interpreter(path, version)
    return ours


def _python_on_path(version: tuple[int, int]) -> str | None:
    """Return a Python that can make virtual environments; a name on PATH may be a shim without one, or lack the modules."""
    path = shutil.which(f"python{version[0]}.{version[1]}")
    if path is None:
        return None
    absolute = Path(path).absolute()
    return str(absolute) if _makes_environments(absolute, version) else _interpreter_behind(path)


def _makes_environments(path: Path, version: tuple[int, int]) -> bool:
    """Return whether it can be seen, without starting it, that `path` is a Python with `venv` and `ensurepip`.

    A script may start another Python, or none. What is seen is the standard library beside the program that links lead to.
    """
    library = path.resolve().parent.parent / "lib" / f"python{version[0]}.{version[1]}"
    try:
        with path.open("rb") as program:
            is_script = program.read(2) == b"#!"
    except OSError:
        return False
    return not is_script and all((library / name).is_dir() for name in ("venv", "ensurepip"))


@cache  # a list of environments asks after the same few, and starting a Python takes long
def _interpreter_behind(path: str) -> str | None:
    """Return the executable behind `path`, or None where it isn't a Python with `venv` and `ensurepip`."""
    probe = [path, "-c", "import ensurepip, sys, venv; print(sys.executable)"]
    try:
        done = subprocess.run(
            probe, capture_output=True, text=True, env=_variables(), cwd="/", timeout=PROBE_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _notes(environment: Environment, interpreter: Interpreter) -> Iterator[str]:
    """Yield what of an environment isn't done as it was asked for, one line each."""
    if not environment.allows_python(interpreter.version):
        why = "isn't on PATH" if environment.packages else "isn't used, since no packages of pip are asked for"
        yield f"Python {environment.python} {why}: the step runs with {interpreter}."
    if environment.conda_packages:
        names = ", ".join(environment.conda_packages)
        yield f"Packages of conda aren't installed: {names}. List what the step needs under pip."
    if environment.image:
        yield f"The image {environment.image} isn't run: the step runs on this machine itself."


def _add_programs(folder: Path, python: Path, versioned_name: str) -> None:
    folder.mkdir()
    for name in ("python", "python3", versioned_name):
        (folder / name).symlink_to(python if python.exists() else sys.executable)
    for name in ("pip", "pip3"):
        (folder / name).write_text(_PIP, encoding="utf-8")
        (folder / name).chmod(0o700)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def _lock(folder: Path, wait: bool = True) -> Iterator[int]:
    """Hold an environment's lock and yield its descriptor; a child that inherits it holds the lock too, should we be killed.

    Raises `BlockingIOError` where somebody else holds it, unless it is to `wait`.
    """
    descriptor = os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            logger.info("Waiting for another step that builds the environment %s", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _build(folder: Path, python: str, packages: Sequence[str], lock: int) -> None:
    """Build an environment in its folder, where an earlier build may have been cut off; leave nothing if it fails."""
    if folder.exists():
        logger.info("Removing what an unfinished build left in %s", folder)
        shutil.rmtree(folder)
    logger.info("Building an environment of %s", _without_passwords(packages))
    requirements = folder / REQUIREMENTS_FILE
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    try:
        _run("venv", [python, "-m", "venv", str(folder)], folder.parent, lock)
        requirements.write_text("".join(f"{line}\n" for line in packages), encoding="utf-8")
        _run("pip", [*pip, "install", "--progress-bar", "off", "-r", str(requirements)], folder.parent, lock)
        installed = _run("pip", [*pip, "freeze", "--all"], folder.parent, lock, logging.DEBUG)
        os.sync()  # the marker must not outlive what it stands for in a power cut
        content = {"python": python, "packages": list(packages), "installed": installed}
        write_json(folder / READY_FILE, content, is_durable=True)
    except (_CommandFailed, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _run(what: str, command: Sequence[str], directory: Path, lock: int, level: int = logging.INFO) -> list[str]:
    """Run a command, log its lines as they come, and return them; raises `_CommandFailed`."""
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=directory,
        env=_variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=[lock],
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            logger.log(level, "%s", lines[-1])
    if process.returncode:
        code = process.returncode
        raise _CommandFailed(what, code if code > 0 else 128 - code, lines)
    return lines


def _without_passwords(packages: Sequence[str]) -> str:
    """Return requirements for people, without the passwords of their URLs."""
    return re.sub(r"://[^/@\s]+@", "://***@", ", ".join(packages))


def _variables() -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name not in OURS_ONLY}
    return {**variables, "PYTHONUNBUFFERED": "1"}


def _tell(error: MafunzoError) -> None:
    """Log an error, and record it as the step's own."""
    logger.error("error: %s", error)
    if step_folder := os.environ.get(STEP_FOLDER):
        write_json(StepFolder(Path(step_folder)).error, error.record)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
