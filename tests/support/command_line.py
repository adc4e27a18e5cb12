"""The command line with a home of its own: in this process, which is quick, or as a process, as in a shell."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from mafunzo.cli import main


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
        """Run a command here; return what it printed on both streams, stdout first. Fails unless its exit code is `code`.

        What a child of it prints isn't in this process's streams: `process` has that too.
        """
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, self.variables | environment),
            patch.object(sys, "argv", ["mafunzo", *map(str, words)]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            exit_code = _exit_code()
        return _checked(words, exit_code, code, out.getvalue() + err.getvalue())

    def process(self, *words: str | Path, code: int = 0, **environment: str) -> str:
        """Do the same with a process of its own, as a user's shell does."""
        argv = [sys.executable, "-m", "mafunzo.cli", *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, env=self.environment | environment)
        return _checked(words, done.returncode, code, done.stdout + done.stderr)


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0
    return 0


def _checked(words: tuple[str | Path, ...], exit_code: int, expected: int, output: str) -> str:
    assert exit_code == expected, f"{words} ended with {exit_code}:\n{output}"
    assert "Traceback" not in output
    return output
