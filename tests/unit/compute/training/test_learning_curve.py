from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mafunzo.compute.training.learning_curve import draw_learning_curve


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the pictures that are saved."""
    seen: list[Axes] = []
    save = Figure.savefig

    def savefig(figure: Figure, path: Path) -> None:
        seen.extend(figure.axes)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return seen


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): ([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()])
        for line in axes.get_lines()
    }


def test_both_losses_and_the_step_that_is_kept_are_shown(axes: list[Axes], tmp_path: Path) -> None:
    history: list[dict[str, Any]] = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "eval_loss": 2.5},
        {"step": 3, "loss": 1.0, "eval_loss": 2.75},
    ]
    draw_learning_curve(history, 2, tmp_path / "loss.png")
    assert lines(axes[0]) == {
        "training rows": ([1, 2, 3], [3, 2, 1]),
        "validation rows": ([2, 3], [2.5, 2.75]),
        "kept: step 2, loss 2.500": ([2], [2.5]),
    }
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("history", [[], [{"step": 1, "grad_norm": 1.0}], [{"step": 1, "loss": None}]])
def test_a_run_without_losses_has_an_empty_picture(history: Any, axes: list[Axes], tmp_path: Path) -> None:
    draw_learning_curve(history, None, tmp_path / "loss.png")
    assert lines(axes[0]) == {} and axes[0].get_legend() is None
    assert (tmp_path / "loss.png").exists()
