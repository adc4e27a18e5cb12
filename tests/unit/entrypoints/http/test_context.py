"""A loop in its thread."""

import threading

from mafunzo.entrypoints.http.context import Loop
from tests.support.waiting import LIMIT_S


def test_a_loop_runs_until_it_is_asked_to_stop() -> None:
    runs = threading.Event()

    def run(stop: threading.Event) -> None:
        runs.set()
        stop.wait()

    loop = Loop("waiting", run)
    loop.start()
    assert runs.wait(LIMIT_S)
    assert loop.stop(LIMIT_S)
    assert loop.error == ""


def test_a_loop_that_breaks_is_told_and_begins_again() -> None:
    calls: list[int] = []
    begun_again = threading.Event()

    def run(stop: threading.Event) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no space left")
        begun_again.set()
        stop.wait()

    loop = Loop("breaking", run)
    loop.start()
    assert begun_again.wait(LIMIT_S)
    assert loop.error == "OSError: no space left"
    assert loop.stop(LIMIT_S)
