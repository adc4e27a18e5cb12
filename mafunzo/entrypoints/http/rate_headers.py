"""What is left of a caller's rate limits, in the headers that OpenAI's clients read."""

from mafunzo.entities.rate_limit import RateState


def rate_headers(state: RateState | None) -> dict[str, str]:
    """Return `x-ratelimit-limit-requests` and so on, `-requests-day` for quotas; none for what has no limit."""
    if state is None:
        return {}
    headers = {}
    allowances = (
        ("requests", state.requests),
        ("tokens", state.tokens),
        ("requests-day", state.requests_today),
        ("tokens-day", state.tokens_today),
    )
    for what, allowance in allowances:
        if allowance is not None:
            headers[f"x-ratelimit-limit-{what}"] = str(allowance.most)
            headers[f"x-ratelimit-remaining-{what}"] = str(allowance.rest)
            headers[f"x-ratelimit-reset-{what}"] = _duration(allowance.reset_s)
    return headers


def _duration(seconds: float) -> str:
    """Return a length of time as OpenAI writes it: `120ms`, `3s`, `1m12s`, `7h0m12s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
