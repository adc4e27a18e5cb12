"""What an examination of a GPU found: checks, each with its measure, its bound and whether it holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """name: what was looked at. measured, bound: in words, with their units. is_passed: None where nothing was measured, which
    `bound` then gives the reason of; where there is no bound, `bound` is empty and it has passed."""

    name: str
    measured: str
    bound: str
    is_passed: bool | None

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "Check":
        """Parse what `as_dict` wrote; raises `KeyError` or `TypeError` for anything else."""
        is_passed = body["is_passed"]
        if is_passed is not None and not isinstance(is_passed, bool):
            raise TypeError(f"is_passed is {is_passed!r}, expected true, false or null.")
        return cls(str(body["name"]), str(body["measured"]), str(body["bound"]), is_passed)

    @property
    def verdict(self) -> str:
        """Say how it went, in a word or two."""
        return {True: "passed", False: "FAILED", None: "not measured"}[self.is_passed]


@dataclass(frozen=True)
class Examination:
    """All checks of a device, and what it is: its name, and versions of the software."""

    device: str
    software: Mapping[str, str]
    checks: tuple[Check, ...]

    @property
    def faults(self) -> list[str]:
        """What failed, in a line each."""
        return [
            f"{one.name}: {one.measured}, the bound is {one.bound}" for one in self.checks if one.is_passed is False
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"device": self.device, "software": dict(self.software), "checks": [asdict(one) for one in self.checks]}

    def report(self) -> str:
        """Return it as a page of Markdown."""
        versions = ", ".join(f"{name} {version}" for name, version in self.software.items())
        rows = [f"| {one.name} | {one.measured} | {one.bound} | {one.verdict} |" for one in self.checks]
        head = [f"# {self.device}", "", versions, "", "| Check | Measured | Bound | Verdict |", "|---|---|---|---|"]
        return "\n".join([*head, *rows, ""])
