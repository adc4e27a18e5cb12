"""SIGTERM as a request to stop, as long as it is one."""

import os
import signal
from collections.abc import Iterator
from threading import Thread

import pytest

from mafunzo.tracking.termination import at_sigterm
from tests.support.stray_signal import stray_sigterm_told


@pytest.fixture(autouse=True)
def stray_sigterm() -> Iterator[None]:
    with stray_sigterm_told():
        yield


@pytest.mark.parametrize("is_broken", [False, True])
def test_sigterm_is_noted_and_afterwards_as_it_was_before(is_broken: bool) -> None:
    before, notes = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with at_sigterm(lambda: notes.append("stop")):
            os.kill(os.getpid(), signal.SIGTERM)
            if is_broken:
                raise OSError("the disk is full")

    if is_broken:
        with pytest.raises(OSError, match="the disk is full"):
            work()
    else:
        work()
    assert (notes, signal.getsignal(signal.SIGTERM)) == (["stop"], before)


def test_on_another_thread_sigterm_stays_as_it_is() -> None:
    before, handlers = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with at_sigterm(lambda: None):
            handlers.append(signal.getsignal(signal.SIGTERM))

    (thread := Thread(target=work)).start()
    thread.join()
    assert handlers == [before]
