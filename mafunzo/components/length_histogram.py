"""A picture of how long conversations are, and of what a cut would cost."""

import logging
from collections.abc import Sequence
from pathlib import Path

BINS = 40
SHOWN_SHARE = 0.97
"""The axis ends where so many conversations are shown; the few longer ones are counted in the text."""


def draw(lengths: Sequence[int], split: str, max_seq_length: int | None, path: Path) -> None:
    """Write a histogram of a split's lengths (tokens, before the cut) as PNG; a line stands where rows are cut."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ordered = sorted(lengths) or [1]
    shown = max(ordered[int(SHOWN_SHARE * (len(ordered) - 1))], 2)
    if max_seq_length and max_seq_length <= ordered[-1]:
        shown = max(shown, round(max_seq_length * 1.25))
    axes.hist(ordered, bins=min(BINS, shown), range=(0, shown), color="#4472a8", edgecolor="white", linewidth=0.4)
    if max_seq_length and max_seq_length <= shown:
        axes.axvline(max_seq_length, color="#c0392b", linewidth=1.5)
        cut = sum(length > max_seq_length for length in ordered)
        axes.annotate(
            f"max_seq_length {max_seq_length:,}\n{cut:,} rows cut there",
            (max_seq_length, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(6, 0) if max_seq_length < 0.75 * shown else (-6, 0),
            textcoords="offset points",
            ha="left" if max_seq_length < 0.75 * shown else "right",
            va="top",
            color="#c0392b",
        )
    longer = sum(length > shown for length in ordered)
    beyond = f" ({longer:,} longer ones, up to {ordered[-1]:,}, aren't shown)" if longer else ""
    axes.set_title(f"Length of {len(lengths):,} conversations ({split})")
    axes.set_xlabel(f"tokens{beyond}")
    axes.set_ylabel("conversations")
    axes.set_xlim(0, shown)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
