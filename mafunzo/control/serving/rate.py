"""Rate limits: what each caller has used of its requests and tokens a minute, in memory only; quotas of a day are `quota.py`'s.

A leaky bucket: what was used drains at the rate of the limit, so that a caller may use a minute's worth at once, and then
goes on at the rate. A request is charged what its prompt and its `max_tokens` may come to before it goes, so that many at once
don't all pass; its end settles what it took.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mafunzo.control.serving.quota import DayCount, Quotas
from mafunzo.entities.endpoint import Endpoint
from mafunzo.entities.rate_limit import Allowance, RateLimit, RateState, limit_of
from mafunzo.errors import RateLimitExceeded

MINUTE_S = 60.0


@dataclass
class Usage:
    """What a caller has used, as of a moment: it drains with time."""

    requests: float = 0.0
    tokens: float = 0.0
    at: float = 0.0

    def drain(self, limit: RateLimit, now: float) -> None:
        """Take away what has drained since the last call. Without a limit, nothing is kept."""
        passed_s = max(0.0, now - self.at)
        self.requests = _drained(self.requests, limit.requests_per_minute, passed_s)
        self.tokens = _drained(self.tokens, limit.tokens_per_minute, passed_s)
        self.at = now


class Permit:
    """A request that was let in. `tokens`: what it was charged, until `settle`. day: what its caller has used today, where a
    quota counts it."""

    def __init__(
        self, usage: Usage, limit: RateLimit, tokens: int, quotas: Quotas | None = None, day: DayCount | None = None
    ) -> None:
        self._usage, self._limit, self._tokens = usage, limit, tokens
        self._quotas, self._day = quotas, day
        self._is_settled = False

    @property
    def counts_tokens(self) -> bool:
        """Whether anybody wants to know what the answer took."""
        return self._limit.tokens_per_minute is not None or self._limit.tokens_per_day is not None

    @property
    def state(self) -> RateState:
        """What the caller has left of its rate limits."""
        return _state(self._usage, self._limit)

    def settle(self, tokens: int) -> None:
        """Charge what the request took in place of what it might; idempotent."""
        if self._is_settled:
            return
        self._is_settled = True
        self._usage.tokens = max(0.0, self._usage.tokens + tokens - self._tokens)
        if self._quotas is not None and self._day is not None and self.counts_tokens:
            self._quotas.settle(self._day, tokens - self._tokens)


class Rates:
    """What all callers of all endpoints have used. quotas: what they have used today."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, quotas: Quotas | None = None) -> None:
        self._clock = clock
        self._quotas = quotas or Quotas()
        self._usages: dict[tuple[str, str], Usage] = {}

    def admit(self, endpoint: Endpoint, caller: str, tokens: int) -> Permit:
        """Let a request in that may take so many tokens; raises `RateLimitExceeded` with when to come again.

        One that alone is more than a minute's or a day's worth is let in when nothing else was used.
        """
        limit, now = limit_of(endpoint.rate_limits, caller), self._clock()
        if limit == RateLimit():
            return Permit(Usage(), limit, 0)
        usage = self._usages.setdefault((endpoint.name, caller), Usage(at=now))
        usage.drain(limit, now)
        self._require_quota(endpoint.name, caller, limit, tokens)
        wait_s, what = max(
            (_wait_s(usage.requests, 1, limit.requests_per_minute), f"{limit.requests_per_minute} requests"),
            (_wait_s(usage.tokens, max(1, tokens), limit.tokens_per_minute), f"{limit.tokens_per_minute} tokens"),
        )
        if wait_s > 0:
            raise RateLimitExceeded(
                f"Caller '{caller}' may ask endpoint '{endpoint.name}' for {what} a minute, and has used them. Try again in "
                f"{math.ceil(wait_s)} s.",
                retry_after_s=wait_s,
            )
        usage.requests += 1
        usage.tokens += tokens
        if not limit.has_quota:
            return Permit(usage, limit, tokens)
        counted = tokens if limit.tokens_per_day is not None else 0
        return Permit(usage, limit, tokens, self._quotas, self._quotas.add(endpoint.name, caller, 1, counted))

    def state(self, endpoint: Endpoint, caller: str) -> RateState:
        """Return what a caller has left."""
        limit, now = limit_of(endpoint.rate_limits, caller), self._clock()
        usage = self._usages.get((endpoint.name, caller), Usage(at=now))
        usage.drain(limit, now)
        state = _state(usage, limit)
        if not limit.has_quota:
            return state
        day, reset_s = self._quotas.count(endpoint.name, caller), self._quotas.reset_s()
        return replace(
            state,
            requests_today=_rest_today(day.requests, limit.requests_per_day, reset_s),
            tokens_today=_rest_today(day.tokens, limit.tokens_per_day, reset_s),
        )

    def _require_quota(self, endpoint: str, caller: str, limit: RateLimit, tokens: int) -> None:
        """Raise `RateLimitExceeded` where a caller has used its day's worth."""
        if not limit.has_quota:
            return
        day = self._quotas.count(endpoint, caller)
        used = [
            (day.requests, 1, limit.requests_per_day, "requests"),
            (day.tokens, max(1, tokens), limit.tokens_per_day, "tokens"),
        ]
        for amount, more, most, what in used:
            if most is not None and amount + min(more, most) > most:
                wait_s = self._quotas.reset_s()
                raise RateLimitExceeded(
                    f"Caller '{caller}' may ask endpoint '{endpoint}' for {most} {what} a day, and has used {amount}, which "
                    f"leaves too few for this request. Try again in {math.ceil(wait_s)} s, when the day (of UTC) is over.",
                    retry_after_s=wait_s,
                )


def _rest_today(used: int, per_day: int | None, reset_s: float) -> Allowance | None:
    return None if per_day is None else Allowance(per_day, max(0, per_day - used), reset_s)


def _drained(used: float, per_minute: int | None, passed_s: float) -> float:
    return 0.0 if per_minute is None else max(0.0, used - passed_s * per_minute / MINUTE_S)


def _wait_s(used: float, amount: int, per_minute: int | None) -> float:
    """Return the seconds until so much more may be used."""
    if per_minute is None:
        return 0.0
    over = used + min(amount, per_minute) - per_minute
    return over * MINUTE_S / per_minute if over > 1e-6 else 0.0


def _state(usage: Usage, limit: RateLimit) -> RateState:
    return RateState(
        _allowance(usage.requests, limit.requests_per_minute), _allowance(usage.tokens, limit.tokens_per_minute)
    )


def _allowance(used: float, per_minute: int | None) -> Allowance | None:
    if per_minute is None:
        return None
    return Allowance(per_minute, max(0, math.floor(per_minute - used + 1e-6)), used * MINUTE_S / per_minute)
