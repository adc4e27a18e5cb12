"""What is left of a caller's rate limits, in the headers that OpenAI's clients read."""

from mafunzo.entities.rate_limit import RateState


def rate_headers(state: RateState | None) -> dict[str, str]:
    """Return `x-ratelimit-limit-requests` and so on; none for what has no limit."""
    if state is None:
        return {}
    headers = {}
    for what, allowance in (("requests", state.requests), ("tokens", state.tokens)):
        if allowance is not None:
            headers[f"x-ratelimit-limit-{what}"] = str(allowance.most)
            headers[f"x-ratelimit-remaining-{what}"] = str(allowance.rest)
            headers[f"x-ratelimit-reset-{what}"] = _duration(allowance.reset_s)
    return headers


def _duration(seconds: float) -> str:
    """Return a length of time as OpenAI writes it: `120ms`, `3s`, `1m12s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
