"""A picture of how long conversations are, and of what a cut would cost."""

import logging
from collections.abc import Sequence
from pathlib import Path

BINS = 40
SHOWN_SHARE = 0.97
"""The axis ends where so many conversations are shown; the few longer ones are counted in the text."""


def draw(lengths: Sequence[int], split: str, max_seq_length: int | None, path: Path) -> None:
    """Write a histogram of a split's lengths (tokens, before truncation) as PNG; a line marks `max_seq_length`."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
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
    axes.set_title(f"Length of {len(lengths):,} conversations ({split})")
    axes.set_xlabel(f"tokens{beyond}")
    axes.set_ylabel("conversations")
    axes.set_xlim(0, axis_limit)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
