"""Mirrored traffic: how the answers of another deployment compare with those that the clients got."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mafunzo.errors import Faults

LONGEST_LATENCY_SHARE = 0.95


@dataclass(frozen=True)
class Comparison:
    """One request that two deployments answered, without a word of what was said.

    at: seconds since 1970. live, mirror: the names of the deployments. is_sampled: whether the request lets the answer vary.
    Of each: the HTTP status, the answer's characters, and the seconds until its end. same_characters: how many at the
    beginning of both are equal.
    """

    at: float
    live: str
    mirror: str
    is_sampled: bool
    is_equal: bool
    same_characters: int
    live_status: int
    mirror_status: int
    live_characters: int
    mirror_characters: int
    live_s: float
    mirror_s: float


@dataclass(frozen=True)
class Latency:
    """Seconds until the end of answers: of half of them at most, and of 95 percent."""

    median_s: float
    p95_s: float


@dataclass(frozen=True)
class MirrorReport:
    """What the comparisons of one mirror say. Of those that both answered: equal, different, and of the different ones those
    whose requests let answers vary (`different_sampled`). failed: those that only the mirror didn't answer.

    Characters are means. latencies: None without any answer.
    """

    mirror: str
    compared: int = 0
    equal: int = 0
    different: int = 0
    different_sampled: int = 0
    failed: int = 0
    live_characters: float = 0.0
    mirror_characters: float = 0.0
    live_latency: Latency | None = None
    mirror_latency: Latency | None = None


def report_of(mirror: str, comparisons: Sequence[Comparison]) -> MirrorReport:
    """Return what comparisons say together."""
    answered = [one for one in comparisons if one.live_status < 400]
    both = [one for one in answered if one.mirror_status < 400]
    if not answered:
        return MirrorReport(mirror)
    different = [one for one in both if not one.is_equal]
    return MirrorReport(
        mirror,
        compared=len(both),
        equal=len(both) - len(different),
        different=len(different),
        different_sampled=sum(one.is_sampled for one in different),
        failed=len(answered) - len(both),
        live_characters=_mean([one.live_characters for one in both]),
        mirror_characters=_mean([one.mirror_characters for one in both]),
        live_latency=_latency([one.live_s for one in both]),
        mirror_latency=_latency([one.mirror_s for one in both]),
    )


def require_mirror(endpoint: str, deployments: Sequence[str], mirror_percent: Mapping[str, int]) -> None:
    """Raise `InvalidParameter` for shares of mirrored requests that can't be, with all faults at once."""
    faults = Faults()
    shares = {name: share for name, share in mirror_percent.items() if share}
    faults.add(*(f"Endpoint {endpoint} has no deployment '{name}'." for name in shares if name not in deployments))
    faults.add(*(f"{name} is {share}, expected 0 to 100." for name, share in shares.items() if not 0 <= share <= 100))
    if len(shares) > 1:
        faults.add(f"{' and '.join(shares)} are mirrors, expected one at most.")
    faults.require_none(f"The mirror of {endpoint} can't be set.")


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _latency(seconds: Sequence[float]) -> Latency | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Latency(median(ordered), ordered[int(LONGEST_LATENCY_SHARE * (len(ordered) - 1))])
