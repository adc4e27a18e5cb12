"""How much each caller may ask of an endpoint in a minute (a rate) and in a day (a quota), and what is left of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from mafunzo.errors import Faults

EVERYBODY = "default"
"""Whose limit is that of each caller without one of its own."""
USER = "user:"
PRIMARY, SECONDARY, GENERAL = "primary", "secondary", "general"
"""The callers that have an endpoint's keys, or the key of all endpoints; others are users (`user:amina`)."""
MAX_LIMIT = 10**9


@dataclass(frozen=True)
class RateLimit:
    """What a caller may ask in a minute and in a day (of UTC); None for as much as it likes.

    Tokens are those of prompts and answers.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None

    def __str__(self) -> str:
        minute = _amounts(self.requests_per_minute, self.tokens_per_minute)
        day = _amounts(self.requests_per_day, self.tokens_per_day)
        parts = [f"{minute} a minute"] if minute else []
        parts += [f"{day} a day"] if day else []
        return ", ".join(parts) or "no limit"

    @property
    def has_quota(self) -> bool:
        """Whether anything is counted for a day."""
        return self.requests_per_day is not None or self.tokens_per_day is not None


@dataclass(frozen=True)
class Allowance:
    """What is left of one limit: of `most` a minute or a day, so many `rest`; all of it again after `reset_s`."""

    most: int
    rest: int
    reset_s: float


@dataclass(frozen=True)
class RateState:
    """What is left of a caller's limits; None for what has no limit. `_today`: of its quotas."""

    requests: Allowance | None = None
    tokens: Allowance | None = None
    requests_today: Allowance | None = None
    tokens_today: Allowance | None = None


@dataclass(frozen=True)
class DayUsage:
    """What a caller has used of an endpoint on a day, in ISO 8601; only what a quota limits is counted."""

    endpoint: str
    caller: str
    day: str
    requests: int = 0
    tokens: int = 0


def limit_of(limits: Mapping[str, RateLimit], caller: str) -> RateLimit:
    """Return the limit of a caller: its own, else everybody's, else none."""
    return limits.get(caller) or limits.get(EVERYBODY) or RateLimit()


def require_rate_limit(caller: str, limit: RateLimit) -> None:
    """Raise `InvalidParameter` for a caller or a limit that can't be, with all faults at once."""
    faults = Faults()
    if caller not in (EVERYBODY, PRIMARY, SECONDARY, GENERAL) and not re.fullmatch(rf"{USER}\S{{1,128}}", caller):
        faults.add(
            f"'{caller[:64]}' isn't a caller, expected {EVERYBODY}, {PRIMARY}, {SECONDARY}, {GENERAL} (the key of all "
            f"endpoints) or {USER}NAME."
        )
    for one in fields(limit):
        amount = getattr(limit, one.name)
        if amount is not None and not 1 <= amount <= MAX_LIMIT:
            faults.add(f"{one.name} is {amount}, expected 1 to {MAX_LIMIT}. To let nobody in, replace the key.")
    faults.require_none("The limit can't be set.")


def _amounts(requests: int | None, tokens: int | None) -> str:
    parts = [f"{requests} requests"] if requests is not None else []
    parts += [f"{tokens} tokens"] if tokens is not None else []
    return " and ".join(parts)
