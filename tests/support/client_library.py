"""Client libraries in environments of their own, which are built once for what their lock files say, and kept."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

FOLDER = Path(__file__).parents[1] / "clients"
CACHE = Path(tempfile.gettempdir()) / "mafunzo-test-clients"


def client_python(client: str) -> Path:
    """Return the Python of a client's environment."""
    lock = FOLDER / "locks" / f"{client}.lock"
    return built(client, [lock], lambda folder: install_packages(folder, lock)) / "bin" / "python"


def node_folder() -> Path:
    """Return a folder that has Node, in `bin`, and what the lock file of the program for it lists."""
    source = FOLDER / "node"
    locks = [source / name for name in ("requirements.lock", "package.json", "package-lock.json")]

    def install(folder: Path) -> None:
        install_packages(folder, locks[0])
        for lock in locks[1:]:
            shutil.copy(lock, folder)
        signs = ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH", "ECONNRESET")
        npm = [str(folder / "bin" / "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        run_installer(npm, folder, *signs, PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")

    return built("node", locks, install)


def built(client: str, locks: list[Path], install: Callable[[Path], None]) -> Path:
    """Return the folder of an environment."""
    digest = hashlib.sha256(platform.python_version().encode())
    for lock in locks:
        digest.update(lock.read_bytes())
    folder = CACHE / f"{client}-{digest.hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "ready").exists():
            install(folder)
            (folder / "ready").touch()
    return folder


def install_packages(folder: Path, lock: Path) -> None:
    """Make a virtual environment of what a lock file lists."""
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
    run_installer([*pip, "--quiet", "-r", str(lock)], folder, "after connection broken by")


def run_installer(argv: list[str], folder: Path, *signs: str, **variables: str) -> None:
    """Run it; skip the test where it says that the network can't be reached, by one of these signs."""
    environment = os.environ | variables
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    if done.returncode and any(sign in told for sign in signs):
        pytest.skip(f"The network can't be reached, to install {folder.name}: {told.strip().splitlines()[-1]}")
    assert done.returncode == 0, told


def client_variables(endpoint: dict[str, str], home: Path) -> dict[str, str]:
    """Return the environment of a client: none of this process's settings, and no table of prices from elsewhere."""
    names = ("PATH", "LANG", "TMPDIR")
    variables = {name: os.environ[name] for name in names if name in os.environ}
    return variables | endpoint | {"HOME": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
