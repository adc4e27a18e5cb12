"""What becomes of a run of tests when one of its worker processes dies: the others go on, and it is told how the process ended."""

import signal
from subprocess import Popen, TimeoutExpired

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

REAPED_WITHIN_S = 5


class FileScheduling(LoadFileScheduling):
    """Hands out files of tests. Of a worker that died only unfinished files are handed out again.

    xdist 3.8 hands out all that it ever had: files without a test left, for whose end the run would wait for ever.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        self.assigned_work[node] = {
            path: tests for path, tests in self.assigned_work[node].items() if not all(tests.values())
        }
        return super().remove_node(node)


def ending(node: WorkerController) -> str:
    """Return how a worker's process ended: the name of the signal, or its exit code."""
    process: Popen[bytes] = node.gateway._io.popen
    try:
        code = process.wait(REAPED_WITHIN_S)
    except TimeoutExpired:
        return "still running"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
