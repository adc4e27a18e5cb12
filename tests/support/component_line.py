"""A component's command line within the tests' process, without the seconds that a process takes to import torch."""

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mafunzo.compute.components.command import load_interface, parse, run


def refused(component: ModuleType, argv: Iterable[object]) -> int:
    """Run a component, which must end itself; return its exit code. What it says of the reason is in the step's folder."""
    with pytest.raises(SystemExit) as end:
        complete(component, argv)
    assert isinstance(end.value.code, int)
    return end.value.code


def complete(component: ModuleType, argv: Iterable[object]) -> None:
    """Run a component, which must do all of its work."""
    assert component.__file__ is not None
    run(component.__file__, component.work, [str(argument) for argument in argv])


def values_of(component: ModuleType, folder: Path, **options: object) -> dict[str, Any]:
    """Return the typed literals that a component gets from a command line with these options; `folder` is each other input."""
    assert component.__file__ is not None
    interface = load_interface(Path(component.__file__).with_suffix(".yml"))
    paths = [name for name, declared in interface.inputs.items() if declared.is_path and declared.is_required]
    words = {**dict.fromkeys(paths, folder), **dict.fromkeys(interface.outputs, folder / "out"), **options}
    texts = {name: str(word).lower() if isinstance(word, bool) else str(word) for name, word in words.items()}
    return parse(interface, [part for name, text in texts.items() for part in (f"--{name}", text)]).values
