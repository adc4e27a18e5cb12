"""The real server with fake workers, as a process: `python run_server.py HOME PORT`."""

import contextlib
import sys
from pathlib import Path

from mafunzo.control.store.home import Home
from mafunzo.entrypoints.serve.process import log_to, serve

FAKE_WORKER = Path(__file__).parent / "fake_worker.py"

if __name__ == "__main__":
    home = Home(Path(sys.argv[1]))
    log_to(home)
    with contextlib.suppress(KeyboardInterrupt):
        serve(home, int(sys.argv[2]), 0, worker=(sys.executable, str(FAKE_WORKER)))
