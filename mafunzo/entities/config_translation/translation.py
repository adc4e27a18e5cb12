"""What becomes of a configuration of another tool: of each of its keys, and the parameters that it means here."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from mafunzo.entities.job import Value
from mafunzo.errors import InvalidParameter


class Fate(StrEnum):
    """What becomes of a key: it means the same here, it means something else, it isn't needed, or it can't be honoured."""

    TAKEN = "taken"
    CHANGED = "changed"
    DROPPED = "dropped"
    REFUSED = "refused"


@dataclass(frozen=True)
class Outcome:
    """What a rule makes of a value. target: the parameter that a refused value was about, where there is one."""

    fate: Fate
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    target: str = ""


@dataclass(frozen=True)
class Entry:
    """One key of the file, or one that the file leaves to the other tool's default. key: with dots where it is nested."""

    key: str
    value: Any
    outcome: Outcome
    is_default: bool = False

    @property
    def becomes(self) -> str:
        """The parameters that it gives, as they would stand on the command line."""
        return " ".join(f"{name}={value}" for name, value in self.outcome.parameters.items())

    @property
    def given(self) -> str:
        """The value as people read it."""
        return f"{self.value} (its default)" if self.is_default else str(self.value)


@dataclass(frozen=True)
class Translation:
    """A whole configuration, translated. tool: whose it is."""

    tool: str
    entries: tuple[Entry, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of a fine-tuning that it means; what the file says wins over the tool's defaults."""
        entries = sorted(self.entries, key=lambda entry: not entry.is_default)
        return {name: value for entry in entries for name, value in entry.outcome.parameters.items()}

    @property
    def refused(self) -> list[Entry]:
        """What can't be honoured."""
        return [entry for entry in self.entries if entry.outcome.fate is Fate.REFUSED]

    def require_honoured(self, where: str) -> None:
        """Raise `InvalidParameter` with every key that can't be honoured. where: the file's name."""
        faults = [f"{entry.key}: {entry.given}: {entry.outcome.reason}" for entry in self.refused]
        if faults:
            raise InvalidParameter(
                f"{where} can't be trained here as {self.tool} would. Change these keys, or leave them out by --drop KEY.",
                faults,
            )


class Config:
    """A configuration of another tool: what the file says, over the tool's defaults.

    overruled: parameters that are given beside the file, and win. files: what a path in it leads to.
    """

    def __init__(
        self,
        body: Mapping[str, Any],
        defaults: Mapping[str, Any],
        overruled: Collection[str],
        files: "Files",
    ) -> None:
        self.body = {key: value for key, value in body.items() if value is not None}
        self.defaults = defaults
        self.overruled = frozenset(overruled)
        self.files = files

    def get(self, key: str) -> Any:
        """Return what the tool would take for a key; None where it has neither a value nor a default."""
        return self.body.get(key, self.defaults.get(key))

    def items(self) -> Iterator[tuple[str, Any, bool]]:
        """Yield every key with its value, and whether that is the tool's default."""
        for key, value in self.body.items():
            yield key, value, False
        for key, value in self.defaults.items():
            if key not in self.body and value is not None:
                yield key, value, True


class Files(Protocol):
    """What there is beside a configuration; whoever reads files says how."""

    def exists(self, path: str) -> bool:
        """Return whether a path, from the configuration's folder, leads to something."""

    def read(self, path: str) -> Any:
        """Return the JSON of a file, None where there is no file. Raises `InvalidFile`."""


class NoFiles:
    """A configuration that stands alone."""

    def exists(self, path: str) -> bool:
        return False

    def read(self, path: str) -> Any:
        return None


def taken(reason: str = "", /, **parameters: Value) -> Outcome:
    """Return that a value means the same here."""
    return Outcome(Fate.TAKEN, parameters, reason)


def changed(reason: str, /, **parameters: Value) -> Outcome:
    """Return that a value is honoured otherwise, and how."""
    return Outcome(Fate.CHANGED, parameters, reason)


def dropped(reason: str) -> Outcome:
    """Return that a value changes no result here."""
    return Outcome(Fate.DROPPED, reason=reason)


def refused(reason: str, target: str = "") -> Outcome:
    """Return that a value would change the result, and can't be honoured."""
    return Outcome(Fate.REFUSED, reason=reason, target=target)


def flat(body: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration with the keys of nested mappings joined by dots; lists stay values."""
    pairs: dict[str, Any] = {}
    for key, value in body.items():
        name = f"{prefix}{key}"
        pairs |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return pairs
