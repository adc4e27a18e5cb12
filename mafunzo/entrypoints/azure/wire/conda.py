"""Conda environment files (`environment.yml`): the Python version, conda packages and pip requirements."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from mafunzo.entities.environment import is_python_condition
from mafunzo.errors import Faults

_PACKAGE = re.compile(r"(?:[\w./-]+::)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<version>[=<>!~\s].*)?")
_BUILD = re.compile(r"(?<=\d)=[\w*]+$")
"""What `conda env export` adds to a version: `3.10.4=h12debd9_0`."""

_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*\s*(\[[^\]]*\])?\s*([=<>!~;@(#].*)?")
_REMOTE = re.compile(r"(https?|(git|hg|svn|bzr)\+\w+)://\S+.*")
_LOCAL_PATH = re.compile(r"[./~].*|[A-Za-z]:\\.*|file:.*|[^:]*@ *file:.*|[^:]*\.(whl|zip|tar\.\w+)")
_OPTION = re.compile(r"(?P<option>--[\w-]+|-\w?)[\s=]*(?P<value>.*)")
_FILE_OPTIONS = ("-r", "--requirement", "-c", "--constraint", "-e", "--editable")
_PLACE_OPTIONS = ("-f", "--find-links")
_OPTIONS = (
    *_PLACE_OPTIONS,
    *("-i", "--index-url", "--extra-index-url", "--no-index", "--trusted-host"),
    *("--pre", "--prefer-binary", "--no-binary", "--only-binary", "--require-hashes"),
)
_EXPECTED = "expected a requirement such as numpy>=1.26."
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class CondaFile:
    """A file's requirements, as written. python: the version, or conditions on it; empty for any."""

    python: str = ""
    conda_packages: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def conda_from_text(text: str) -> tuple[CondaFile, Faults]:
    """Return a file's requirements, and all its faults. An empty text has none."""
    faults = Faults()
    body = _parsed(text, faults)
    conda_entries, packages = _dependencies(body, faults)
    variables = _variables(body.get("variables") or {}, faults)
    python = dict(map(_package, conda_entries)).get("python", "")
    if python and not is_python_condition(python):
        faults.add(f"python is '{python}', expected python=3.10 or conditions such as python>=3.9,<3.12.")
    conda_packages = tuple(entry for entry in conda_entries if _package(entry)[0] not in ("python", "pip"))
    return CondaFile(python, conda_packages, tuple(packages), variables), faults


def conda_text(conda: CondaFile, name: str) -> str:
    """Return a file with these requirements."""
    python = f"python={conda.python}" if conda.python[:1].isdigit() else f"python{conda.python}"
    dependencies: list[Any] = [python, "pip", *conda.conda_packages]
    body: dict[str, Any] = {"name": name, "dependencies": dependencies}
    if conda.packages:
        dependencies.append({"pip": list(conda.packages)})
    if conda.variables:
        body["variables"] = dict(conda.variables)
    return yaml.safe_dump(body, sort_keys=False)


def _parsed(text: str, faults: Faults) -> Mapping[str, Any]:
    """Return the file's mapping, every scalar in it a text; an empty one for what is no mapping."""
    try:
        document = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        faults.add(f"it isn't YAML: {' '.join(str(error).split())}")
        return {}
    if not document:
        return {}
    if not isinstance(document, dict):
        faults.add(f"it is {_show(document)}, expected a mapping with the key dependencies.")
        return {}
    if "dependencies" not in document:
        faults.add(f"dependencies is missing; there are: {', '.join(document)}.")
    return document


def _dependencies(body: Mapping[str, Any], faults: Faults) -> tuple[list[str], list[str]]:
    """Return conda's packages and pip's."""
    conda_entries: list[str] = []
    packages: list[str] = []
    for entry in _entries(body.get("dependencies") or [], "dependencies", faults):
        if isinstance(entry, str) and _PACKAGE.fullmatch(entry):
            conda_entries.append(entry)
        elif isinstance(entry, dict) and list(entry) == ["pip"]:
            packages += _requirements(_entries(entry["pip"] or [], "pip", faults), faults)
        else:
            faults.add(f"dependencies has {_show(entry)}, expected a package such as python=3.10, or the list pip.")
    return conda_entries, packages


def _entries(value: Any, where: str, faults: Faults) -> list[Any]:
    if not isinstance(value, list):
        faults.add(f"{where} is {_show(value)}, expected a list.")
        return []
    return [entry.strip() if isinstance(entry, str) else entry for entry in value]


def _requirements(entries: Iterable[Any], faults: Faults) -> list[str]:
    """Return the lines of the pip part that can be used."""
    lines = [(entry, _requirement_fault(entry)) for entry in entries]
    faults.add(*(f"pip has {_show(entry)}, {fault}" for entry, fault in lines if fault))
    return [entry for entry, fault in lines if not fault]


def _requirement_fault(line: Any) -> str:
    """Return what is wrong with a line of the pip part; empty for nothing."""
    if not isinstance(line, str):
        return _EXPECTED
    if "\n" in line:
        return "expected one requirement an entry."
    if line.startswith("-"):
        return _option_fault(line)
    if _LOCAL_PATH.fullmatch(line):
        return "a local path, which isn't there when the environment is built. Name a package of an index, or a URL."
    return "" if _REQUIREMENT.fullmatch(line) or _REMOTE.fullmatch(line) else _EXPECTED


def _option_fault(text: str) -> str:
    match = _OPTION.fullmatch(text)
    option, value = (match["option"], match["value"]) if match else (text, "")
    if option in _FILE_OPTIONS:
        return "which reads files that aren't there when the environment is built. List its requirements here."
    if option not in _OPTIONS:
        return f"expected a requirement, or one of {', '.join(_OPTIONS)}."
    if option in _PLACE_OPTIONS and not (value.startswith("/") or "://" in value):
        return "a path that isn't there when the environment is built. Name an absolute one, or a URL."
    return ""


def _package(entry: str) -> tuple[str, str]:
    """Return name and version of one of conda's packages: `conda-forge::python==3.10.4` is (python, 3.10.4)."""
    match = _PACKAGE.fullmatch(entry)
    assert match is not None, "checked before"
    version = _BUILD.sub("", (match["version"] or "").strip())
    return match["name"].lower(), re.sub(r"^==? *", "", version)


def _variables(variables: Any, faults: Faults) -> dict[str, str]:
    if not isinstance(variables, dict):
        faults.add(f"variables is {_show(variables)}, expected a mapping.")
        return {}
    faults.add(
        *(
            f"variables has {name}: {_show(value)}, expected a variable's name and a text."
            for name, value in variables.items()
            if not _VARIABLE.fullmatch(name) or not isinstance(value, str)
        )
    )
    return variables


def _show(value: Any) -> str:
    """Return a value as errors show it: a text itself, of anything else only its type (it may be huge)."""
    if isinstance(value, str):
        return f"'{' '.join(value.split())}'"
    return "a list" if isinstance(value, list) else f"a mapping of {', '.join(value)}"
