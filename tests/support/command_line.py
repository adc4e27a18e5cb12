"""The command line with a home of its own: in this process, which is quick, or as a process, as in a shell."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from mafunzo.entrypoints.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    exit_code: int
    stdout: str
    stderr: str


class Shell:
    """Runs `mafunzo` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.variables = {"MAFUNZO_HOME": str(home), "MAFUNZO_PORT": "0", "NO_COLOR": "1", "COLUMNS": "120"}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process of this home."""
        return os.environ | self.variables

    def __call__(self, *words: str | Path, code: int = 0, **environment: str) -> str:
        """Run a command here; return what it printed on both streams, stdout first. Fails unless its exit code is `code`."""
        return _checked(words, self.run(*words, **environment), code)

    def run(self, *words: str | Path, **environment: str) -> Ended:
        """Run a command in this process. What a child of it prints isn't in these streams: `process` has that too."""
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, self.variables | environment),
            patch.object(sys, "argv", ["mafunzo", *map(str, words)]),
            patch.object(os, "execv", _stay),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            exit_code = _exit_code()
        return Ended(exit_code, out.getvalue(), err.getvalue())

    def process(self, *words: str | Path, code: int = 0, **environment: str) -> str:
        """Do the same as a call with a process of its own, as a user's shell does."""
        argv = [sys.executable, "-m", "mafunzo", *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, env=self.environment | environment)
        return _checked(words, Ended(done.returncode, done.stdout, done.stderr), code)


def _stay(program: str, argv: list[str]) -> None:
    """Stand in for `os.execv`, by which `up` would turn this process into the server."""
    raise AssertionError(f"{argv} takes the place of the process that asks for it. Ask with Shell.process.")


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0
    return 0


def _checked(words: tuple[str | Path, ...], ended: Ended, expected: int) -> str:
    output = ended.stdout + ended.stderr
    assert ended.exit_code == expected, f"{words} ended with {ended.exit_code}:\n{output}"
    assert "Traceback" not in output
    return output
