"""How long to wait before what failed is started again: exponential backoff, one rule for steps, workers and loops."""

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
_MAX_DOUBLINGS = 16
"""Enough to reach the longest delay; more would outgrow a float after days of crashes."""


def delay_s(attempts: int) -> float:
    """Return the seconds to wait after so many attempts that failed: none after none, then 1, 2, 4 ... and 60 at most."""
    if attempts < 1:
        return 0.0
    return min(FIRST_DELAY_S * 2.0 ** min(attempts - 1, _MAX_DOUBLINGS), MAX_DELAY_S)


def is_over(rest_s: float) -> bool:
    """Return whether a wait is over of which so many seconds seem to be left.

    No wait has more left than the longest delay: a clock that was put back, or one that began anew, has made it so.
    """
    return not 0 < rest_s <= MAX_DELAY_S + 1
