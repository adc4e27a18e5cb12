"""The environment that a user's step runs in: pip's packages, and the Python to install them for."""

import dataclasses
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mafunzo.entities.asset import Asset

_CONDITION = re.compile(r"(?P<operator>>=|<=|!=|>|<|={0,2}) ?(?P<version>\d+(\.\d+)*)(\.\*)?")
_OPERATORS: Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    "": operator.eq,
    "=": operator.eq,
    "==": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Environment:
    """One version of an environment.

    packages: pip's requirement lines as written, in order; none for the environment that Mafunzo itself runs in.
    python: as asked for: `3.10`, conditions such as `>=3.9,<3.12`, or empty for any.
    variables: environment variables that a step finds, unless the job sets them.
    image: the container image that was asked for. conda_packages: conda's own, other than python and pip. Neither is used here.
    """

    name: str
    version: str
    packages: tuple[str, ...] = ()
    python: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    conda_packages: tuple[str, ...] = ()

    def allows_python(self, version: tuple[int, int]) -> bool:
        """Return whether the Python asked for may be `version` (major, minor)."""
        return not self.python or all(_holds(condition, version) for condition in self.python.split(","))


def environment_facts(environment: Environment) -> dict[str, Any]:
    """Return what the properties of a registered version say of its environment: all but name and version."""
    facts = dataclasses.asdict(environment)
    del facts["name"], facts["version"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}


def environment_of(asset: Asset) -> Environment:
    """Return the environment that a registered version is, or one on offer."""
    facts = asset.properties
    return Environment(
        name=asset.name,
        version=asset.version,
        packages=tuple(facts["packages"]),
        python=facts["python"],
        variables=facts["variables"],
        image=facts["image"],
        conda_packages=tuple(facts["conda_packages"]),
    )


def is_python_condition(text: str) -> bool:
    """Return whether `text` is something that an environment's `python` can be."""
    return all(_CONDITION.fullmatch(condition.strip()) for condition in text.split(","))


def _holds(condition: str, version: tuple[int, ...]) -> bool:
    match = _CONDITION.fullmatch(condition.strip())
    assert match is not None, "environments are made with conditions that were checked"
    bound = tuple(int(part) for part in match["version"].split("."))[:2]
    return _OPERATORS[match["operator"]](version[: len(bound)], bound)
