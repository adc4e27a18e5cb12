"""The data report: every row is counted while it is prepared; `report.json`, and for people a summary and a picture."""

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from mafunzo.dataset.check import BadRow, RowCounts, kind_of

BINS = 40
SHOWN_REASONS = 5
SHOWN_CHARACTERS = 200
SHOWN_SHARE = 0.97
"""The axis ends where so many conversations are shown; the few longer ones are counted in the text."""


@dataclass(kw_only=True)
class Tally(RowCounts):
    """Counts of one split's rows.

    source: the names of its files; selection: which of their rows. bad: unusable rows; left_out: good rows that are too
    long or held out. sequences: what the kept rows became, more than they are where some were split. full_lengths: tokens
    before truncation, of each kept row. preview: the first rows with their mask.
    """

    source: str
    selection: str
    rows_kept: int = 0
    sequences: int = 0
    tokens: int = 0
    assistant_tokens: int = 0
    truncated_rows: int = 0
    left_out: list[BadRow] = field(default_factory=list)
    full_lengths: "array[int]" = field(default_factory=lambda: array("l"))
    preview: list[dict[str, Any]] = field(default_factory=list)

    @property
    def dropped(self) -> list[BadRow]:
        return sorted(self.bad + self.left_out, key=lambda row: (row.file, row.row))


def as_json(tallies: Mapping[str, Tally], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report by split, with the `settings` that led to it."""
    formats = sum((tally.formats for tally in tallies.values()), Counter[str]())
    return {
        "splits": {name: _split_report(tally) for name, tally in tallies.items()},
        "lengths": {name: lengths(tally.full_lengths) for name, tally in tallies.items()},
        "format": ", ".join(sorted(formats)),
        **settings,
    }


def _split_report(tally: Tally) -> dict[str, Any]:
    return {
        "source": tally.source,
        "taken": tally.selection,
        "rows_read": tally.rows_read,
        "rows_kept": tally.rows_kept,
        "sequences": tally.sequences,
        "bad_rows": len(tally.bad),
        "dropped": [asdict(row) for row in tally.dropped],
        "tokens": tally.tokens,
        "assistant_tokens": tally.assistant_tokens,
        "truncated": tally.truncated_rows,
        "formats": dict(tally.formats),
        "notes": dict(tally.notes),
    }


def lengths(values: Iterable[int]) -> dict[str, float]:
    """Return statistics of lengths in tokens, before truncation; empty where there are none."""
    sorted_values = sorted(values)
    if not sorted_values:
        return {}
    tenths = quantiles(sorted_values, n=10, method="inclusive") if len(sorted_values) > 1 else sorted_values * 9
    return {
        "min": sorted_values[0],
        "p10": round(tenths[0], 1),
        "median": round(tenths[4], 1),
        "mean": round(fmean(sorted_values), 1),
        "p90": round(tenths[8], 1),
        "max": sorted_values[-1],
    }


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the summary's lines: rows, tokens, truncation and reasons, by split."""
    whose = "by the assistant" if report.get("train_on", "assistant") == "assistant" else "trained on"
    for name, part in report["splits"].items():
        split = f" in {part['sequences']:,} sequences" if part["sequences"] > part["rows_kept"] else ""
        share = part["assistant_tokens"] / part["tokens"] if part["tokens"] else 0.0
        yield (
            f"{name:<10} {part['rows_kept']:>7,} of {part['rows_read']:,} rows{split}, {part['tokens']:,} tokens, "
            f"{share:.0%} {whose}, {part['truncated']:,} rows cut at {report['max_seq_length'] or 'no length'}"
        )
        reasons = Counter(kind_of(row["reason"]) for row in part["dropped"]).most_common()
        for reason, count in reasons[:SHOWN_REASONS]:
            yield f"{'':<10} {count:>7,} left out: {reason[:SHOWN_CHARACTERS]}"
        if others := sum(count for _, count in reasons[SHOWN_REASONS:]):
            yield f"{'':<10} {others:>7,} left out for other reasons: all are in report.json"
        for note, count in part["notes"].items():
            yield f"{'':<10} {count:>7,} kept; the row {note}"


def metrics(tallies: Mapping[str, Tally]) -> dict[str, float]:
    """Return the numbers of each split that are worth comparing between jobs."""
    return {
        f"{name}_{what}": float(getattr(tally, what))
        for name, tally in tallies.items()
        for what in ("rows_kept", "tokens", "assistant_tokens")
    }


def draw_lengths(lengths: Sequence[int], split: str, max_seq_length: int | None, path: Path) -> None:
    """Write a histogram of a split's lengths (tokens, before truncation) as PNG; a line marks `max_seq_length`."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    sorted_lengths = sorted(lengths) or [1]
    axis_limit = max(sorted_lengths[int(SHOWN_SHARE * (len(sorted_lengths) - 1))], 2)
    if max_seq_length and max_seq_length <= sorted_lengths[-1]:
        axis_limit = max(axis_limit, round(max_seq_length * 1.25))
    axes.hist(
        sorted_lengths,
        bins=min(BINS, axis_limit),
        range=(0, axis_limit),
        color="#4472a8",
        edgecolor="white",
        linewidth=0.4,
    )
    if max_seq_length and max_seq_length <= axis_limit:
        axes.axvline(max_seq_length, color="#c0392b", linewidth=1.5)
        truncated_rows = sum(length > max_seq_length for length in sorted_lengths)
        axes.annotate(
            f"max_seq_length {max_seq_length:,}\n{truncated_rows:,} rows cut there",
            (max_seq_length, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(6, 0) if max_seq_length < 0.75 * axis_limit else (-6, 0),
            textcoords="offset points",
            ha="left" if max_seq_length < 0.75 * axis_limit else "right",
            va="top",
            color="#c0392b",
        )
    longer = sum(length > axis_limit for length in sorted_lengths)
    beyond = f" ({longer:,} longer ones, up to {sorted_lengths[-1]:,}, aren't shown)" if longer else ""
    axes.set(
        title=f"Length of {len(lengths):,} conversations ({split})",
        xlabel=f"tokens{beyond}",
        ylabel="conversations",
        xlim=(0, axis_limit),
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
