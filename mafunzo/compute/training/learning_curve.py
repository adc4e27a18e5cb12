"""The learning curve of a run, as a picture: training and validation loss by optimizer step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_learning_curve(history: Sequence[Mapping[str, Any]], best_step: int | None, path: Path) -> None:
    """Write `loss.png` from a trainer's `log_history`; marks the step whose weights are the result."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    train = [(entry["step"], entry["loss"]) for entry in history if entry.get("loss") is not None]
    held_out = [(entry["step"], entry["eval_loss"]) for entry in history if entry.get("eval_loss") is not None]
    figure = Figure(figsize=(8, 4.5), dpi=120)
    figure.subplots_adjust(left=0.12, right=0.97, top=0.92, bottom=0.12)  # a layout engine would draw all of it twice
    axes = figure.add_subplot()
    if train:
        marker = "." if len(train) < 60 else ""
        axes.plot(*zip(*train, strict=True), color="#3b6ea5", linewidth=1.5, marker=marker, label="training rows")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="#c8553d", linewidth=1.5, marker="o", label="validation rows")
    best = [(step, loss) for step, loss in held_out if step == best_step]
    if best:
        label = f"kept: step {best[0][0]}, loss {best[0][1]:.3f}"
        axes.plot(
            *best[0], color="none", markeredgecolor="#222222", marker="o", markersize=12, linestyle="", label=label
        )
    axes.set(
        xlim=(0, 1.04 * max((step for step, _ in [*train, *held_out]), default=1)),
        xlabel="optimizer step",
        ylabel="loss (nats per assistant token)",
        title="Loss during training",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if train or held_out:
        axes.legend(frameon=False)
    figure.savefig(path)
