import io
import json

import pytest

from mafunzo.tracking import progress as module
from mafunzo.tracking.progress import Progress, progress_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_lines_come_at_most_so_often_but_the_last_always(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress("train", 4, every_s=1.0, stream=stream)
    for done, after_s in ((1, 2.0), (2, 0.5), (3, 1.0), (4, 0.1)):
        clock.now_s += after_s
        progress.update(done, loss=1.23456789)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(event["done"], event["eta_s"]) for event in events] == [(1, 6.0), (3, 1.2), (4, 0.0)]
    assert {event["loss"] for event in events} == {1.234568}
    assert {(event["event"], event["phase"], event["total"]) for event in events} == {("progress", "train", 4)}


def test_before_anything_is_done_no_end_is_foretold(clock: Clock) -> None:
    stream = io.StringIO()
    Progress("train", 4, stream=stream).update(0)
    assert json.loads(stream.getvalue())["eta_s"] is None


def test_on_a_terminal_one_line_is_rewritten_and_ends_with_the_phase(clock: Clock) -> None:
    stream = Terminal()
    progress = Progress("train", 2, every_s=0.0, stream=stream)
    for done in (1, 2):
        clock.now_s += 61.0
        progress.update(done)
    one, two = stream.getvalue().split("\r\x1b[2K")[1:]
    assert one == "train 1/2 [##########..........] ETA 1:01"
    assert two == "train 2/2 [####################] ETA 0:00\n"


def test_a_phase_of_nothing_is_done() -> None:
    assert progress_text("check", 0, 0, None, {"rows": 12345.0}) == "check 0/0 [####################] rows 1.234e+04"


def test_whoever_knows_how_long_the_rest_takes_says_it(clock: Clock) -> None:
    out = io.StringIO()
    progress = Progress("train", 4, every_s=0.0, stream=out)
    clock.now_s += 10
    progress.update(2)
    progress.update(2, 75.04, loss=1.0)
    progress.update(4, 0.0)
    assert [json.loads(line)["eta_s"] for line in out.getvalue().splitlines()] == [10.0, 75.0, 0.0]
