"""The components that ship with Mafunzo: their interfaces, and a hash of all the code that each runs."""

import ast
import functools
import hashlib
import threading
from pathlib import Path

import yaml

from mafunzo.control.pipelines.plan import PinnedComponent
from mafunzo.entities.component import Component
from mafunzo.entities.component_file import component_from_dict
from mafunzo.errors import NotFound

PACKAGE = Path(__file__).parents[2]
FOLDER = PACKAGE / "compute" / "components"


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_parsing = threading.Lock()
"""As Python 3.11 counts the depth of its parsers together, two at once can fail (`SystemError`)."""


@functools.cache
def shipped(name: str) -> PinnedComponent:
    """Return the component `name` that ships with Mafunzo; raises `NotFound`.

    Its `code` is the hash of its interface and of every module of ours that its command imports.
    """
    path, component = FOLDER / f"{name}.yml", shipped_interface(name)
    sources = [path, *sorted(_imported(FOLDER / f"{name}.py"))] if component.kind == "command" else [path]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(str(source.relative_to(PACKAGE)).encode() + b"\0" + source.read_bytes() + b"\0")
    return PinnedComponent(component, f"sha256:{digest.hexdigest()}", is_trusted=True)


@functools.cache
def shipped_interface(name: str) -> Component:
    """Return the interface alone, which takes a hundredth of the time. Raises `NotFound`."""
    path = FOLDER / f"{name}.yml"
    if not path.exists():
        raise NotFound(f"No component is called '{name}'. There are: {', '.join(shipped_names())}.")
    return component_from_dict(yaml.load(path.read_bytes(), Loader=_LOADER), path.name)


def shipped_names() -> list[str]:
    """Return the names of all components that ship with Mafunzo."""
    return sorted(file.stem for file in FOLDER.glob("*.yml"))


def _imported(start: Path) -> set[Path]:
    """Return `start` and every source file of this package that it imports, directly or not, wherever the import stands."""
    files: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path in files or not path.exists():
            continue
        files.add(path)
        waiting += _imports_of(path)
    return files


@functools.cache
def _imports_of(path: Path) -> tuple[Path, ...]:
    """Return the source files of this package that `path` names in its own imports; components share most of theirs."""
    with _parsing:
        tree = ast.parse(path.read_bytes())
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(file for name in names for file in _files_of(name))


def _files_of(module: str) -> list[Path]:
    parts = module.split(".")
    if parts[0] != PACKAGE.name or len(parts) == 1:
        return []
    stem = PACKAGE.joinpath(*parts[1:])
    packages = [PACKAGE.joinpath(*parts[1:end], "__init__.py") for end in range(2, len(parts) + 1)]
    return [file for file in [stem.with_suffix(".py"), *packages] if file.is_file()]
