"""Losses equal TRL's at each of the first 20 steps: <= 0.002 apart in float32, <= 0.01 in bfloat16.

The grid: LoRA and full fine-tuning, packed or not, accumulation over 1, 4 and 8 passes, one and two processes. All of it on the
tiny Llama, of which one cell is quick, and those of 8 passes on all processes are `make soak`'s, as are four on SmolLM2.
"""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from pyarrow import parquet

from mafunzo import settings
from mafunzo.compute.components.tiny_model import make
from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.dataset.download import Access, get_dataset
from tests.support.step_process import ended
from tests.support.tiny_training import random_rows, write_prepared
from tests.support.trl_losses import GRID, STEPS, Cell, differences, run_cell, write_cells

Losses = dict[str, tuple[list[float], list[float]]]
"""By cell the losses of ours and of TRL at each step."""

ROOT = Path(__file__).parents[2]
QUICK = {Cell("32", True, True, 4)}
REAL = [
    Cell("32", True, True, 4, rate=2e-4),
    Cell("32", False, False, 1, rate=2e-5),
    Cell("16", True, True, 1, rate=2e-4),
    Cell("16", False, True, 1, 2, rate=2e-5),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The tiny Llama and rows for each cell."""
    folder = tmp_path_factory.mktemp("trl")
    make("tiny-llama", 0, folder / "base")
    for rows in {cell.rows for cell in GRID}:
        write_prepared(folder / f"rows-{rows}", random_rows(rows, longest=40))
    return folder


def grid(processes: int, is_long: bool) -> list[Cell]:
    """The cells of so many processes that aren't quick: those that take long, or the others."""
    cells = [cell for cell in GRID if cell.processes == processes and cell not in QUICK]
    return [cell for cell in cells if (cell.accumulation * cell.processes >= 8) == is_long]


@pytest.fixture(scope="module")
def losses_on_two(folder, tmp_path_factory) -> Losses:
    """The losses of ours and of TRL by cell, of all cells of two processes but those that take long."""
    return run_on_two(tmp_path_factory.mktemp("two"), grid(2, is_long=False), folder)


@pytest.fixture(scope="module")
def losses_of_long_on_two(folder, tmp_path_factory) -> Losses:
    """As `losses_on_two`, of the cells that take long."""
    return run_on_two(tmp_path_factory.mktemp("long"), grid(2, is_long=True), folder)


def run_on_two(folder: Path, cells: list[Cell], source: Path) -> Losses:
    write_cells(folder, cells, source)
    command = [sys.executable, "-m", "tests.support.trl_losses", str(folder)]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    LocalLauncher().start(command, folder / "step", environment, processes=2)
    record = ended(folder / "step")
    assert record.exit_code == 0, (folder / "step" / "log.txt").read_text()[-4000:]
    losses = {str(cell): json.loads((folder / f"{cell}.json").read_text()) for cell in cells}
    return {name: (both["ours"], both["trl"]) for name, both in losses.items()}


def require_equal(cell: Cell, ours: list[float], theirs: list[float]) -> None:
    apart = differences(ours, theirs)
    assert len(apart) == STEPS
    assert max(apart) <= cell.tolerance, dict(zip(range(1, STEPS + 1), zip(ours, theirs, strict=True), strict=True))
    assert ours[-1] < ours[0], "nothing was learned, so that equal losses say nothing of the gradient"


@pytest.mark.parametrize("cell", [cell for cell in GRID if cell in QUICK], ids=str)
def test_losses_are_those_of_trl(folder, cell):
    require_equal(cell, *run_cell(cell, folder / "base", folder / f"rows-{cell.rows}"))


@pytest.mark.slow
@pytest.mark.parametrize("cell", grid(1, is_long=False), ids=str)
def test_losses_are_those_of_trl_in_the_rest_of_the_grid(folder, cell):
    require_equal(cell, *run_cell(cell, folder / "base", folder / f"rows-{cell.rows}"))


@pytest.mark.slow
@pytest.mark.parametrize("cell", grid(2, is_long=False), ids=str)
def test_losses_of_two_processes_are_those_of_trl_on_two(losses_on_two, cell):
    require_equal(cell, *losses_on_two[str(cell)])


@pytest.mark.soak
@pytest.mark.parametrize("cell", grid(1, is_long=True), ids=str)
def test_losses_of_many_passes_are_those_of_trl(folder, cell):
    require_equal(cell, *run_cell(cell, folder / "base", folder / f"rows-{cell.rows}"))


@pytest.mark.soak
@pytest.mark.parametrize("cell", grid(2, is_long=True), ids=str)
def test_losses_of_many_passes_of_two_processes_are_those_of_trl_on_two(losses_of_long_on_two, cell):
    require_equal(cell, *losses_of_long_on_two[str(cell)])


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """SmolLM2, and the first rows of real conversations for each cell; both are fetched once for all runs of the tests."""
    folder = tmp_path_factory.mktemp("real")
    card = (files("mafunzo.catalog") / "models" / "SmolLM2-135M-Instruct.yml").read_text(encoding="utf-8")
    (folder / "card").mkdir()
    (folder / "card" / "card.yml").write_text(card)
    run_component("import_model", mlflow_model_path=folder / "card", model=folder / "base")
    rows = get_dataset("chitchat", folder / "chitchat", Access(settings.load().cache))
    run_component(
        "prepare_data",
        model=folder / "base",
        train_file_path=rows["train"],
        validation_file_path=rows["test"],
        test_file_path=rows["test"],
        max_seq_length=64,
        prepared=folder / "all",
    )
    table = parquet.read_table(folder / "all" / "train.parquet")
    for count in {cell.rows for cell in REAL}:
        (folder / f"rows-{count}").mkdir()
        parquet.write_table(table.slice(0, count), folder / f"rows-{count}" / "train.parquet")
        (folder / f"rows-{count}" / "tokenizer").symlink_to(folder / "all" / "tokenizer")
    return folder


def run_component(name: str, **inputs: object) -> None:
    words = [word for key, value in inputs.items() for word in (f"--{key}", str(value))]
    subprocess.run([sys.executable, "-m", f"mafunzo.compute.components.{name}", *words], check=True)


@pytest.mark.soak
@pytest.mark.parametrize("cell", REAL, ids=str)
def test_losses_on_smollm2_are_those_of_trl(real, tmp_path, cell):
    prepared = real / f"rows-{cell.rows}"
    if cell.processes == 1:
        require_equal(cell, *run_cell(cell, real / "base", prepared))
        return
    require_equal(cell, *run_on_two(tmp_path, [cell], real)[str(cell)])
