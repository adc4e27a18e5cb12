"""TRL's SFTTrainer on our prepared rows, for comparisons: `python -m mafunzo.compute.components.trl_peer JSON`.

The JSON object has the names of `Peer`. The last line that is printed has `marks_s`, when each optimizer step ended, and the
steps' `losses` and `grad_norms`.
TRL isn't installed with Mafunzo, which doesn't need it: `pip install trl`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from mafunzo.compute.training.data_order import permutation


@dataclass(frozen=True)
class Peer:
    """What TRL trains, and how. model: a Hugging Face folder; prepared: prepare_data's output, in whose seeded order rows come.

    rows: of an optimizer step; rows_a_pass: of a forward pass. weights: their dtype. bits: 16 or 32, as `precision` has them.
    """

    model: str
    prepared: str
    rows: int
    steps: int
    rows_a_pass: int = 1
    padding_free: bool = False
    recomputed: bool = False
    compiled: bool = False
    attention: str = "sdpa"
    weights: str = "bfloat16"
    bits: str = "16"
    is_lora: bool = True
    rank: int = 16
    rate: float = 1e-4
    seed: int = 42


def main() -> None:
    """Train, and print when each step ended, and the log."""
    marks: list[float] = []
    log = train(Peer(**json.loads(sys.argv[1])), lambda: marks.append(time.perf_counter()))
    sys.stdout.write(json.dumps(log | {"marks_s": marks}) + "\n")


def train(peer: Peer, on_step_end: Callable[[], None]) -> dict[str, list[float]]:
    """Train with SFTTrainer; return the losses and the gradients' norms of the steps."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            on_step_end()

    table = pq.read_table(Path(peer.prepared) / "train.parquet", columns=["input_ids", "labels"])
    table = table.take(permutation(table.num_rows, peer.seed, 0))
    with tempfile.TemporaryDirectory() as output:
        config = SFTConfig(
            output_dir=output,
            bf16=peer.bits == "16",
            model_init_kwargs={
                "dtype": peer.weights if peer.is_lora else "float32",
                "attn_implementation": peer.attention,
            },
            per_device_train_batch_size=peer.rows_a_pass,
            gradient_accumulation_steps=peer.rows // peer.rows_a_pass,
            padding_free=peer.padding_free,
            gradient_checkpointing=peer.recomputed,
            torch_compile=peer.compiled,
            learning_rate=peer.rate,
            lr_scheduler_type="constant",
            max_steps=peer.steps,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            train_sampling_strategy="sequential",
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            seed=peer.seed,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        adapter = LoraConfig(r=peer.rank, lora_alpha=2 * peer.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model=peer.model,
            args=config,
            train_dataset=Dataset(table),
            peft_config=adapter if peer.is_lora else None,
            callbacks=[Marks()],
        )
        trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": [entry["loss"] for entry in log], "grad_norms": [entry["grad_norm"] for entry in log]}


if __name__ == "__main__":
    main()
