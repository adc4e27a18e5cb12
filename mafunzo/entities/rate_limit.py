"""How much each caller may ask of an endpoint in a minute, and what is left of it."""

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
    """What a caller may ask in a minute; None for as much as it likes. Tokens are those of prompts and answers."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.requests_per_minute} requests"] if self.requests_per_minute is not None else []
        parts += [f"{self.tokens_per_minute} tokens"] if self.tokens_per_minute is not None else []
        return f"{' and '.join(parts)} a minute" if parts else "no limit"


@dataclass(frozen=True)
class Allowance:
    """What is left of one limit: of `most` a minute, so many `rest`; all of it again after `reset_s`."""

    most: int
    rest: int
    reset_s: float


@dataclass(frozen=True)
class RateState:
    """What is left of a caller's limits; None for what has no limit."""

    requests: Allowance | None = None
    tokens: Allowance | None = None


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
