"""The pictures of an evaluation, as PNG bytes."""

import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mafunzo.compute.evaluation.compare import Comparison, Estimate
from mafunzo.compute.evaluation.metrics import Floats
from mafunzo.compute.evaluation.result import Evaluation, Forgetting

BASE, TUNED, BETTER, WORSE, INK, FAINT = "#9aa5b1", "#2f6fde", "#1a8a5f", "#c4483a", "#243240", "#dfe5ec"
DOTS_PER_INCH = 130
STYLE: Mapping[str, object] = {
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.axisbelow": True,
}


def pictures(evaluation: Evaluation) -> dict[str, bytes]:
    """Return each picture by its file name."""
    with matplotlib.rc_context(dict(STYLE)):
        images = {"loss_by_row.png": _loss_by_row(evaluation.base_loss_by_row, evaluation.tuned_loss_by_row)}
        if evaluation.comparisons:
            images["metrics.png"] = _metrics(evaluation.comparisons)
        if evaluation.forgetting is not None:
            images["forgetting.png"] = _forgetting(evaluation.forgetting)
    return images


def _loss_by_row(base: Floats, tuned: Floats) -> bytes:
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    scatter, histogram = figure.subplots(1, 2)
    difference = tuned - base
    low, high = min(base.min(), tuned.min()), max(base.max(), tuned.max())
    margin = 0.04 * (high - low) + 1e-6
    scatter.plot([low - margin, high + margin], [low - margin, high + margin], color=INK, linewidth=0.8, linestyle="--")
    scatter.scatter(base, tuned, s=16, c=np.where(difference < 0, BETTER, WORSE), alpha=0.75, linewidths=0)
    scatter.set(
        xlabel="base: loss (nats a token)", ylabel="tuned: loss", title="Each held-out row: below the line is better"
    )
    lower = int((difference < 0).sum())
    _histogram(histogram, difference)
    histogram.set(
        xlabel="tuned minus base (nats a token)", ylabel="rows", title=f"Loss fell on {lower} of {len(difference)} rows"
    )
    return _png(figure)


def _histogram(axes: Axes, values: Floats) -> None:
    widest = max(abs(float(values.min())), abs(float(values.max())), 1e-6)
    bins = np.linspace(-widest, widest, 32)
    axes.hist(values[values < 0], bins=bins.tolist(), color=BETTER)
    axes.hist(values[values >= 0], bins=bins.tolist(), color=WORSE)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    axes.axvline(float(values.mean()), color=TUNED, linewidth=1.6)
    axes.grid(axis="y", color=FAINT)


def _metrics(comparisons: Mapping[str, Comparison]) -> bytes:
    columns = min(4, len(comparisons))
    rows = -(-len(comparisons) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.1 * rows), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, comparison in zip(cells, comparisons.values(), strict=False):
        _metric(axes, comparison)
    for axes in cells[len(comparisons) :]:
        axes.axis("off")
    return _png(figure)


def _metric(axes: Axes, comparison: Comparison) -> None:
    for x, (estimate, colour) in enumerate(((comparison.base, BASE), (comparison.tuned, TUNED))):
        axes.bar(x, estimate.value, color=colour, width=0.62)
        axes.errorbar(x, estimate.value, yerr=_reach(estimate), color=INK, capsize=4, linewidth=1.1)
        axes.annotate(
            f"{estimate.value:.3g}", (x, estimate.high), (0, 3), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xticks([0, 1], ["base", "tuned"])
    axes.set_ylim(0, (max(comparison.base.high, comparison.tuned.high) or 1.0) * 1.2)
    arrow = "higher is better" if comparison.is_higher_better else "lower is better"
    axes.set_title(f"{comparison.title.split(' (')[0]}\n", fontsize=9)
    axes.text(0.5, 1.02, arrow, transform=axes.transAxes, ha="center", fontsize=7, color="#66727f")


def _reach(estimate: Estimate) -> list[list[float]]:
    """Return how far the interval reaches below and above; a percentile interval may lie beside its value."""
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]


def _forgetting(forgetting: Forgetting) -> bytes:
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    histogram, topics = figure.subplots(1, 2)
    histogram.hist(forgetting.kl_by_prompt, bins=32, color=TUNED)
    histogram.axvspan(forgetting.kl.low, forgetting.kl.high, color=INK, alpha=0.15)
    histogram.axvline(forgetting.kl.value, color=INK, linewidth=1.4)
    histogram.grid(axis="y", color=FAINT)
    histogram.set(
        xlabel="KL(base || tuned), nats a token", ylabel="prompts", title=f"{forgetting.prompts} general prompts"
    )
    kl_by_topic = sorted(forgetting.topics.items(), key=lambda item: item[1])
    topics.barh([topic for topic, _ in kl_by_topic], [value for _, value in kl_by_topic], color=TUNED, height=0.62)
    topics.grid(axis="x", color=FAINT)
    topics.set(xlabel="KL(base || tuned), nats a token", title="By topic")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS_PER_INCH)
    return out.getvalue()
