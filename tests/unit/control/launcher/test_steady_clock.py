"""The clock that limits are measured by."""

import time
from inspect import signature

import pytest

from mafunzo.control.launcher.steady_clock import steady_s, uptime
from mafunzo.control.serving.observer import Observer
from mafunzo.control.serving.supervisor import Supervisor


def test_the_uptime_grows_and_no_change_of_the_clock_moves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first = steady_s()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= steady_s() - first < 60
    before, after = uptime(), uptime()
    assert before is not None and after is not None
    assert before.boot == after.boot and before.seconds <= after.seconds


def test_workers_are_timed_by_it() -> None:
    assert Supervisor.__dataclass_fields__["clock"].default is steady_s
    assert signature(Observer).parameters["clock"].default is steady_s
