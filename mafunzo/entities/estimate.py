"""What a fine-tuning run is expected to take: rows, tokens, steps, time, memory, disk, and cost where an hour has a price."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median, quantiles
from typing import Any, Self

TIME_MARGIN = 0.15
MEMORY_MARGIN = 0.1
"""How far a range reaches to each side of what is expected, as a share of it; of time, the probe's own spread comes on top."""


@dataclass(frozen=True)
class Range:
    """What is expected, and between which bounds."""

    expected: float
    low: float
    high: float

    @classmethod
    def around(cls, expected: float, margin: float) -> Self:
        """Return the range that reaches to each side by a share of what is expected."""
        return cls(expected, expected * max(1 - margin, 0.0), expected * (1 + margin))

    def rounded(self) -> "Range":
        """Return a range of whole numbers."""
        return Range(round(self.expected), round(self.low), round(self.high))

    def scaled(self, factor: float, offset: float = 0.0) -> "Range":
        """Return a range with each number, plus `offset`, times `factor`."""
        return Range(*((number + offset) * factor for number in (self.expected, self.low, self.high)))


@dataclass(frozen=True)
class SplitRows:
    """Rows of a split, and why rows were dropped: each kind of reason with their number. tokens: of the rows that are kept."""

    read: int
    kept: int
    tokens: int
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class Estimate:
    """The estimate of a run, training step alone: on this machine, or on nodes of the Ray cluster `compute`, by these.

    tokens: what all steps go through. time_s: from the first step on, evaluation and saving counted in; start_s: the process's
    start and the loading of the model, before. memory_bytes: at the peak, of several processes that of the one with the most;
    total_memory_bytes: of all of them; free_memory_bytes: what is free before they start. strategy: what each process holds.
    disk_bytes: checkpoints, result and packaged model. plan: the memory plan in words. stops_early: whether early stopping may
    end it sooner. price_per_hour: in whatever currency; None where none is set.
    """

    model: str
    rows: Mapping[str, SplitRows]
    tokens: int
    steps: int
    epochs: float
    rows_per_step: int
    evaluations: int
    saves: int
    start_s: float
    time_s: Range
    memory_bytes: Range
    free_memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    device: str
    computed_in: str
    forward_tokens: int
    plan: str
    stops_early: bool
    probed_passes: int
    processes: int = 1
    strategy: str = "ddp"
    total_memory_bytes: Range | None = None
    price_per_hour: float | None = None
    compute: str = ""

    @property
    def cost(self) -> Range | None:
        """What the training step costs, where an hour has a price."""
        if self.price_per_hour is None:
            return None
        return self.time_s.scaled(self.price_per_hour / 3600, offset=self.start_s)

    def at(self, price_per_hour: float | None) -> "Estimate":
        """Return it with the price of an hour."""
        return replace(self, price_per_hour=price_per_hour)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it; without the cost where there is no price."""
        body = asdict(self)
        if self.cost is None:
            del body["price_per_hour"]
            return body
        return body | {"cost": asdict(self.cost)}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Self:
        """Parse what `as_dict` returned."""
        values = {name: value for name, value in body.items() if name != "cost"}
        names = ("time_s", "memory_bytes", "total_memory_bytes")
        ranges = {name: Range(**values[name]) for name in names if values.get(name)}
        rows = {split: SplitRows(**part) for split, part in values["rows"].items()}
        return cls(**{**values, **ranges, "rows": rows})


@dataclass(frozen=True)
class Spread:
    """The errors of several estimates, each as a share of what was measured."""

    median: float
    p90: float


@dataclass(frozen=True)
class Scoreboard:
    """How far estimates were from past runs. runs: how many were compared; left_out: those that were never estimated, or
    whose measurements are gone. time, memory: None where no run was compared."""

    runs: int
    left_out: int
    time: Spread | None
    memory: Spread | None


def error_share(estimated: float, measured: float) -> float:
    """Return how far an estimate is off, as a share of what was measured."""
    return abs(estimated - measured) / measured


def scoreboard_of(errors: Sequence[tuple[float, float]], left_out: int) -> Scoreboard:
    """Return the scoreboard of runs, each with the errors of its time and of its memory."""
    if not errors:
        return Scoreboard(0, left_out, None, None)
    times, memories = ([error[part] for error in errors] for part in (0, 1))
    return Scoreboard(len(errors), left_out, _spread(times), _spread(memories))


def _spread(errors: Sequence[float]) -> Spread:
    p90 = quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0]
    return Spread(median(errors), p90)
