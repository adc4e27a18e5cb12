"""What a step installs for itself: a virtual environment of its own, on top of the one that it runs in.

`pip install -r requirements.txt && python train.py` finds what is there already, and puts what it adds into the step's folder:
the environments that steps share, and Mafunzo's own, stay as they are. pip leaves alone what lies outside of its prefix.
"""

import os
import shutil
import sys
from pathlib import Path

CONFIGURATION = "pyvenv.cfg"
_BASE_FILE = "_base.pth"
_PIP = '#!/bin/sh\nexec "$(dirname "$0")/python" -m pip "$@"\n'


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


def _add_programs(folder: Path, python: Path, versioned_name: str) -> None:
    folder.mkdir()
    for name in ("python", "python3", versioned_name):
        (folder / name).symlink_to(python if python.exists() else sys.executable)
    for name in ("pip", "pip3"):
        (folder / name).write_text(_PIP, encoding="utf-8")
        (folder / name).chmod(0o700)
