"""An estimate for people: a fact a line, ranges rounded as far as they are known."""

from mafunzo.entities.estimate import Estimate, Range, Scoreboard, SplitRows, Spread
from mafunzo.entrypoints.terminal.output import human_size


def estimate_facts(estimate: Estimate) -> dict[str, str]:
    """Return what is expected, by what it is; without the cost where an hour has no price."""
    early = "; early stopping may end it sooner" if estimate.stops_early else ""
    return {
        "model": f"{estimate.model}, in {estimate.computed_in} on {estimate.device}",
        **({"measured on": f"nodes of the Ray cluster '{estimate.compute}'"} if estimate.compute else {}),
        **{f"rows {split}": _rows(rows) for split, rows in estimate.rows.items()},
        "tokens": f"{estimate.tokens:,} in {estimate.epochs:.2f} epochs",
        "steps": f"{estimate.steps:,} of {estimate.rows_per_step} rows, {_counted(estimate.evaluations, 'evaluation')}",
        "time": f"{_times(estimate.time_s)}, with evaluation and saving, after {_time(estimate.start_s)} to start{early}",
        **({"processes": f"{estimate.processes}, {estimate.strategy}"} if estimate.processes > 1 else {}),
        "memory": f"{_memory(estimate)}, {human_size(estimate.free_memory_bytes)} were free",
        "disk": f"{human_size(estimate.disk_bytes)}, {human_size(estimate.free_disk_bytes)} were free{_shortage(estimate)}",
        "cost": _cost(estimate),
    }


def scoreboard_facts(board: Scoreboard) -> dict[str, str]:
    """Return how far estimates were off, as shares of what was measured."""
    left_out = f"; {board.left_out:,} left out: never estimated, or without measurements" if board.left_out else ""
    return {
        "runs": f"{board.runs:,} compared{left_out}",
        "time": _error(board.time),
        "memory": _error(board.memory),
    }


def _error(spread: Spread | None) -> str:
    return f"off by {spread.median:.1%} at the median, {spread.p90:.1%} at the 90th percentile" if spread else ""


def _rows(rows: SplitRows) -> str:
    reasons = [f"{count:,} {reason}" for reason, count in rows.dropped.items()]
    dropped = f"; dropped: {', '.join(reasons)}" if reasons else ""
    return f"{rows.kept:,} of {rows.read:,}, {rows.tokens:,} tokens{dropped}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _times(seconds: Range) -> str:
    low, high = _time(seconds.low), _time(seconds.high)
    return low if low == high else f"{low} to {high}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _sizes(size: Range) -> str:
    return f"{human_size(size.low)} to {human_size(size.high)}"


def _memory(estimate: Estimate) -> str:
    own, total = estimate.memory_bytes, estimate.total_memory_bytes
    if estimate.processes == 1 or total is None:
        return f"{_sizes(own)} at the peak"
    return f"{_sizes(own)} at the peak of a process, {_sizes(total)} of all {estimate.processes}"


def _shortage(estimate: Estimate) -> str:
    return "" if estimate.disk_bytes < estimate.free_disk_bytes else ": too little, free some or lower save_total_limit"


def _cost(estimate: Estimate) -> str:
    cost = estimate.cost
    return f"{cost.low:.2f} to {cost.high:.2f}, at {estimate.price_per_hour:g} an hour" if cost is not None else ""
