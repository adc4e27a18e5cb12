"""`mafunzo` as a process, as in a shell."""

import os
import subprocess
import sys
from pathlib import Path


class Shell:
    """Runs `mafunzo` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = os.environ | {
            "MAFUNZO_HOME": str(home),
            "MAFUNZO_PORT": "0",
            "NO_COLOR": "1",
            "COLUMNS": "120",
        }

    def __call__(self, *words: str | Path, code: int = 0, **environment: str) -> str:
        """Run a command; return what it printed on both streams. Fails unless its exit code is `code`."""
        program = "from mafunzo.cli import main; main()"
        argv = [sys.executable, "-c", program, *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, env=self.environment | environment)
        told = done.stdout + done.stderr
        assert done.returncode == code, f"{words} ended with {done.returncode}:\n{told}"
        assert "Traceback" not in told
        return told
