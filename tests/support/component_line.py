"""A component's command line within the tests' process: its refusals, without the seconds that a process takes to import torch."""

from collections.abc import Iterable
from types import ModuleType

import pytest

from mafunzo.compute.components.command import run


def refused(component: ModuleType, argv: Iterable[object]) -> int:
    """Run a component, which must end itself; return its exit code. What it says of the reason is in the step's folder."""
    assert component.__file__ is not None
    with pytest.raises(SystemExit) as end:
        run(component.__file__, component.work, [str(argument) for argument in argv])
    assert isinstance(end.value.code, int)
    return end.value.code
