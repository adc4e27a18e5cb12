"""Lengths of time, as they are written."""

import math
import re
from typing import Any

from mafunzo.errors import InvalidParameter

_DURATION = re.compile(
    r"P(?:(?P<days>\d{1,9})D)?(?:T(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?(?:(?P<seconds>\d{1,9}(?:[.,]\d{1,9})?)S)?)?"
)
_AGE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*([smhdw])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def seconds_of(duration: str) -> float:
    """Return the seconds of an ISO 8601 duration such as `PT2.5S` or `P1DT30S`; raises `InvalidParameter`."""
    match = _DURATION.fullmatch(duration)
    if match is None or duration in ("P", "PT"):
        raise InvalidParameter(f"'{duration}' isn't a duration, expected ISO 8601 such as PT120S.")
    days, hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def limit_of(limit: Any) -> float:
    """Return a limit's seconds: `limit` is a number of them, or an ISO 8601 duration. Raises `InvalidParameter`."""
    if isinstance(limit, str) and limit.strip().startswith("P"):
        return float(seconds_of(limit.strip()))
    try:
        seconds = float(limit)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise InvalidParameter(f"'{limit}' isn't a duration, expected a number of seconds, or ISO 8601 such as PT120S.")
    return seconds


def age_of(age: str) -> float:
    """Return the seconds of an age: `30d`, `12h`, `2w`, or an ISO 8601 duration such as `P30D`; raises `InvalidParameter`."""
    match = _AGE.fullmatch(age.strip())
    if match is not None:
        return float(match[1]) * _UNITS_S[match[2]]
    if age.strip().startswith("P"):
        return seconds_of(age.strip())
    raise InvalidParameter(f"'{age}' isn't an age, expected a number and its unit (s, m, h, d, w) such as 30d or 12h.")
