"""A real PostgreSQL beside SQLite: what is said of records, leases and the database holds on both, or the test fails."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import psycopg
import pytest

from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.database import Database
from mafunzo.control.store.home import Home
from mafunzo.control.store.migrations import open_database

_numbers = count(1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def artifacts(home: Home) -> Artifacts:
    return Artifacts(home.artifacts)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Nothing for SQLite in the home, else the URL of an empty database of PostgreSQL."""
    if request.param == "sqlite":
        return None
    make: Callable[[], str] = request.getfixturevalue("new_postgresql_database")
    return make()


@pytest.fixture(params=["to sqlite", "to postgresql"])
def target(request: pytest.FixtureRequest, home: Home, tmp_path: Path) -> Database:
    """An empty database of a home with the same secret."""
    other = Home(tmp_path / "other")
    (other.root / "secret.key").write_bytes(home.secret())
    (other.root / "secret.key").chmod(0o600)
    if request.param == "to sqlite":
        return Database(other)
    make: Callable[[], str] = request.getfixturevalue("new_postgresql_database")
    return Database(other, make())


@pytest.fixture
def database(home: Home, url: str | None) -> Iterator[Database]:
    opened = open_database(home, url)
    yield opened
    opened.close()


@pytest.fixture
def new_postgresql_database(postgresql: str) -> Callable[[], str]:
    """Make an empty database (a schema: making one costs no files) and return its URL."""

    def make() -> str:
        name = f"test_{next(_numbers)}"
        with psycopg.connect(postgresql, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{postgresql}&options=-csearch_path%3D{name}"

    return make


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a cluster on a socket in a folder of its own; give its URL."""
    programs = _postgresql_programs()
    root = Path(tempfile.mkdtemp(prefix="mafunzo-pg-", dir="/tmp"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(root, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data = root / "data"
    options = f"-c listen_addresses= -c unix_socket_directories={root} -c fsync=off -c max_connections=200"
    try:
        _run(
            [*as_user, str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "-N"],
            root,
        )
        start = ["start", "-w", "-D", str(data), "-l", str(root / "log"), "-o", options]
        _run([*as_user, str(programs / "pg_ctl"), *start], root)
        try:
            yield f"postgresql://postgres@/postgres?host={root}"
        finally:
            _run([*as_user, str(programs / "pg_ctl"), "stop", "-w", "-m", "immediate", "-D", str(data)], root)
    finally:
        shutil.rmtree(root)


@pytest.fixture
def start_python(home: Home) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start other processes: Python code, with its arguments in `sys.argv`; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-c", code, *map(str, arguments)]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _postgresql_programs() -> Path:
    on_path = shutil.which("initdb")
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))]
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    if not folders:
        pytest.fail("PostgreSQL isn't installed, and the store is tested on it. Run: apt-get install postgresql")
    return folders[-1]


def _run(argv: Sequence[str], folder: Path) -> None:
    done = subprocess.run(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        log = folder / "log"
        pytest.fail(f"{' '.join(argv)} failed:\n{done.stdout}\n{log.read_text() if log.exists() else ''}")
