"""Tests of `mafunzo.control.workspace.speed`: what a process with torch measures."""

import subprocess
from types import SimpleNamespace

import pytest

from mafunzo.control.workspace.speed import measure_speed
from mafunzo.errors import FailedError


@pytest.mark.parametrize("stdout", ["", "[]", '{"flops": 1}'])
def test_a_process_that_breaks_is_told_with_its_last_lines(stdout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = SimpleNamespace(stdout=stdout, stderr="first\nImportError: no torch")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: broken)
    with pytest.raises(FailedError, match="speed can't be measured") as failure:
        measure_speed()
    assert failure.value.faults[-1] == "ImportError: no torch"
