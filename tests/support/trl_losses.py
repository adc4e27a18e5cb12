"""The losses of the same run by TRL's SFTTrainer and by ours: the same rows, order, effective batch and start weights.

Runs of two processes: `python -m tests.support.trl_losses FOLDER`, once a rank. FOLDER/cells.json lists them, and they are
taken one after the other by the same processes, as importing TRL takes longer than all of them; FOLDER/<cell>.json has both.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pyarrow.parquet as pq
from torch import distributed

from mafunzo.compute.model.lora import adapter_tensors
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.data_order import permutation
from mafunzo.compute.training.memory_plan import MOST_TOKENS
from mafunzo.compute.training.run import TrainingRequest, assemble
from mafunzo.compute.training.trainer import finetune

STEPS, ROWS_A_PASS, SEED = 20, 2, 7
RATES = {True: 5e-3, False: 5e-4}
"""Learning rates of LoRA and of full fine-tuning, with which a tiny network's loss falls fast."""


@dataclass(frozen=True)
class Cell:
    """One run. packs: whether sequences share a line (TRL: padding-free). accumulation: forward passes of a step, a process."""

    bits: str
    is_lora: bool
    packs: bool
    accumulation: int
    processes: int = 1
    rate: float = 0.0

    def __str__(self) -> str:
        method, line = "LoRA" if self.is_lora else "full", "packed" if self.packs else "single"
        return f"{self.bits}-bit-{method}-{line}-accumulation-{self.accumulation}-processes-{self.processes}"

    @property
    def rows(self) -> int:
        """The training rows: each is trained on once."""
        return STEPS * ROWS_A_PASS * self.accumulation * self.processes

    @property
    def tolerance(self) -> float:
        return 0.002 if self.bits == "32" else 0.01

    @property
    def learning_rate(self) -> float:
        return self.rate or RATES[self.is_lora]

    def arguments(self) -> TrainingArguments:
        return TrainingArguments.from_values(
            {
                "apply_lora": self.is_lora,
                "lora_r": 8,
                "lora_alpha": 16,
                "precision": self.bits,
                "learning_rate": self.learning_rate,
                "lr_scheduler_type": "constant",
                "per_device_train_batch_size": ROWS_A_PASS * self.processes,
                "gradient_accumulation_steps": self.accumulation,
                "evaluation_strategy": "disable",
                "logging_steps": 1,
                "seed": SEED,
            }
        )


GRID = [
    Cell(bits, is_lora, packs, accumulation, processes)
    for processes, bits, is_lora, packs, accumulation in product(
        (1, 2), ("32", "16"), (True, False), (True, False), (1, 4, 8)
    )
]


def losses_of_ours(cell: Cell, base: Path, prepared: Path) -> list[float]:
    """Train with `finetune` and return the loss of each step."""
    with TemporaryDirectory() as folder, _conditions(cell):
        output = Path(_of_first_rank(folder))
        finetune(TrainingRequest(base, prepared, output / "out", cell.arguments()))
        return _logged(output / "out", "loss")


def losses_of_trl(cell: Cell, base: Path, prepared: Path) -> list[float]:
    """Train with `SFTTrainer` from the start weights that `finetune` would have, and return the loss of each step."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    is_half = cell.bits == "16"
    table = pq.read_table(prepared / "train.parquet", columns=["input_ids", "labels"])
    assert table.num_rows == cell.rows
    with TemporaryDirectory() as output:
        config = SFTConfig(
            output_dir=output,
            bf16=is_half,
            model_init_kwargs={"dtype": "bfloat16" if is_half and cell.is_lora else "float32"},
            padding_free=cell.packs,
            per_device_train_batch_size=ROWS_A_PASS,
            gradient_accumulation_steps=cell.accumulation,
            learning_rate=cell.learning_rate,
            lr_scheduler_type="constant",
            max_steps=STEPS,
            max_length=None,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            seed=SEED,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model=str(base),
            args=config,
            train_dataset=Dataset(table.take(permutation(table.num_rows, SEED, 0))),
            peft_config=adapter if cell.is_lora else None,
        )
        if cell.is_lora:
            _start_alike(trainer.model, cell, base, prepared)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def run_cell(cell: Cell, base: Path, prepared: Path) -> tuple[list[float], list[float]]:
    """Return the losses of ours and of TRL; each is empty on any rank but the first."""
    return losses_of_ours(cell, base, prepared), losses_of_trl(cell, base, prepared)


def differences(ours: list[float], theirs: list[float]) -> list[float]:
    """Return how far the losses of each step lie apart."""
    return [abs(a - b) for a, b in zip(ours, theirs, strict=True)]


@contextmanager
def _conditions(cell: Cell) -> Iterator[None]:
    """Compute in bfloat16 on any CPU; pack or not; have accumulation come to several passes."""
    sets = "mafunzo.compute.device.precision.instruction_sets"
    network = "mafunzo.compute.training.network"
    tokens = 1024 if cell.accumulation == 1 else 64
    with patch(sets, lambda: frozenset({"avx512_bf16"})), patch.dict(MOST_TOKENS, {"cpu": tokens}):
        if cell.packs:
            yield
            return
        with (
            patch(f"{network}._reason_not_to_pack", lambda network: "the test says so."),
            patch(f"{network}._is_head_equal", lambda network: False),
        ):
            yield


def _start_alike(network, cell: Cell, base: Path, prepared: Path) -> None:
    """Copy the adapter with which a run of ours starts into peft's."""
    request = TrainingRequest(base, prepared, Path("never-written"), cell.arguments())
    with _conditions(cell):
        start = adapter_tensors(assemble(request).network)
    parameters = {name.replace(".default.", "."): value for name, value in network.named_parameters()}
    assert start.keys() == {name for name in parameters if ".lora_" in name}
    for name, value in start.items():
        parameters[name].data.copy_(value)


def _logged(folder: Path, key: str) -> list[float]:
    path = folder / "trainer_state.json"
    if not path.exists():  # a further rank's
        return []
    return [entry[key] for entry in json.loads(path.read_text())["log_history"] if key in entry]


def _of_first_rank(folder: str) -> str:
    if not distributed.is_initialized():
        return folder
    folders = [folder]
    distributed.broadcast_object_list(folders)
    return str(folders[0])


def main(folder: Path) -> int:
    distributed.init_process_group("gloo")
    for body in json.loads((folder / "cells.json").read_text()):
        cell = Cell(**body["cell"])
        ours, theirs = run_cell(cell, Path(body["base"]), Path(body["prepared"]))
        if os.environ["RANK"] == "0":
            (folder / f"{cell}.json").write_text(json.dumps({"ours": ours, "trl": theirs}))
    distributed.barrier()
    return 0


def write_cells(folder: Path, cells: list[Cell], source: Path) -> None:
    """source: the folder of the base, and of the prepared rows by their number (rows-<number>)."""
    bodies = [
        {"cell": asdict(cell), "base": str(source / "base"), "prepared": str(source / f"rows-{cell.rows}")}
        for cell in cells
    ]
    (folder / "cells.json").write_text(json.dumps(bodies))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
