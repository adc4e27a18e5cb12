"""Reading what a program of a user's has left: only where it is a file itself.

In place of a file it may have left a link that leads anywhere, or a named pipe, at which whoever opens it waits for ever.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read; raises `FileNotFoundError` also for a link, a pipe, a folder and whatever else is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if is_regular(path):  # a file that may not be read, or a disk that fails
            raise
        raise FileNotFoundError(f"{path} is no file.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"{path} is no file.")
    return os.fdopen(descriptor, "rb")


def is_regular(path: Path) -> bool:
    """Return whether there is a file at `path` itself."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def read_regular(path: Path) -> str | None:
    """Return a file's text, what isn't UTF-8 replaced; None where there is none."""
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
