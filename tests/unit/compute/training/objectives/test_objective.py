"""A training method is one objective and one row format: one with two sequences a row trains, validates and resumes as it is.

The objective of this test prefers the first sequence of a row to the second, by the logistic loss of the difference of
their log-probabilities; the loop, the batches, validation, history and checkpoints know nothing of it.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mafunzo.compute.model.loading import load_network
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.network import PackedNetwork, prepare
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.run import TrainingRequest
from mafunzo.compute.training.trainer import finetune
from mafunzo.tracking.metrics import MetricLog, read_metrics
from tests.support.tiny_training import learnable_rows, random_rows, write_base, write_prepared

VALUES = {
    "apply_lora": True,
    "lora_r": 4,
    "lora_dropout": 0.1,
    "learning_rate": 0.02,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 3,
    "num_train_epochs": 3,
    "logging_steps": 1,
    "resume_from_checkpoint": True,
}


BETA = 0.02


class FirstIsBetter:
    """The terms are the rows; the metric is the share of rows whose first sequence is the likelier one."""

    row_format = (("better_ids", "better_labels"), ("worse_ids", "worse_labels"))
    counts = ("preferred", "pairs")

    def terms(self, batch):
        return (len(batch.bounds) - 1) // len(self.row_format)

    def loss(self, network, batch):
        losses = [outputs.loss(i)[0] for outputs in network.forward(batch) for i in range(len(outputs.bounds) - 1)]
        if not losses:
            return BatchLoss(torch.zeros(()), {"preferred": 0, "pairs": 0})
        margins = BETA * (-torch.stack(losses)).view(-1, 2).diff(dim=1).neg().flatten()
        preferred = int((margins > 0).sum())
        return BatchLoss(
            -torch.nn.functional.logsigmoid(margins).sum(), {"preferred": preferred, "pairs": len(margins)}
        )

    def metrics(self, counts):
        return {"preference_accuracy": counts["preferred"] / max(counts["pairs"], 1)}


def write_pairs(folder: Path) -> Path:
    """Prepared rows whose better sequence can be learned and whose worse one is random."""
    write_prepared(folder, learnable_rows(1))
    for name, count in (("train", 22), ("validation", 7)):
        better, worse = learnable_rows(count, seed=count), random_rows(count, seed=count)
        columns = {
            "better_ids": [ids for ids, _ in better],
            "better_labels": [labels for _, labels in better],
            "worse_ids": [ids for ids, _ in worse],
            "worse_labels": [labels for _, labels in worse],
        }
        table = pa.table({column: pa.array(lists, pa.list_(pa.int32())) for column, lists in columns.items()})
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


@pytest.fixture
def base(tmp_path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def prepared(tmp_path) -> Path:
    return write_pairs(tmp_path / "prepared")


def train(base, prepared, output: Path, earlier=(), **values) -> dict:
    metrics = MetricLog(output.with_suffix(".jsonl"))
    arguments = TrainingArguments.from_values(VALUES | values)
    finetune(TrainingRequest(base, prepared, output, arguments, FirstIsBetter(), metrics, earlier))
    return json.loads((output / "trainer_state.json").read_text())


def test_it_trains_validates_and_logs_its_own_metrics(tmp_path, base, prepared):
    state = train(base, prepared, tmp_path / "out", learning_rate=0.003)
    losses = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert len(losses) == 3 and losses[-1] < losses[0]
    names = {name for line in read_metrics(tmp_path / "out.jsonl") for name in line}
    assert {"preference_accuracy", "eval_preference_accuracy"} <= names
    assert not {"mean_token_accuracy", "eval_mean_token_accuracy"} & names
    assert state["best_metric"] == min(losses)


def test_accumulated_forward_passes_give_the_mean_over_its_own_terms(tmp_path, base, prepared):
    values = {"num_train_epochs": 1, "lora_dropout": 0.0, "learning_rate": 0.001}
    whole = train(base, prepared, tmp_path / "whole", per_device_train_batch_size=4, **values)
    parts = train(
        base, prepared, tmp_path / "parts", per_device_train_batch_size=1, gradient_accumulation_steps=4, **values
    )
    for key in ("loss", "grad_norm", "eval_loss", "preference_accuracy"):
        expected = [entry[key] for entry in whole["log_history"] if key in entry]
        assert expected and [entry[key] for entry in parts["log_history"] if key in entry] == pytest.approx(
            expected, rel=1e-4
        )


def test_it_resumes_from_a_checkpoint_with_the_same_bits(tmp_path, base, prepared):
    whole = train(base, prepared, tmp_path / "whole")
    first = tmp_path / "1"
    first.mkdir()
    (tmp_path / "whole" / "checkpoint-6").rename(first / "checkpoint-6")
    again = train(base, prepared, tmp_path / "2", earlier=(first,))
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in (whole, again)]
    assert len(losses[0]) == 18 and losses[0] == losses[1]


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "sequence by sequence"])
def test_each_sequence_of_a_batch_has_its_own_loss(tmp_path, base, prepared, packs):
    from mafunzo.compute.training.batch import pack, read_rows
    from mafunzo.compute.training.network import attention_for

    rows = read_rows(prepared / "train.parquet", FirstIsBetter.row_format)
    packed = prepare(load_network(base, attention=attention_for(torch.device("cpu"))))
    packed = PackedNetwork(packed.network, packs, 0, packed.head)
    batch = pack([rows.row(i) for i in range(3)])
    with torch.no_grad():
        losses = [float(o.loss(i)[0]) for o in packed.forward(batch) for i in range(len(o.bounds) - 1)]
        expected = [
            torch.nn.functional.cross_entropy(
                packed.network(torch.tensor(ids[None], dtype=torch.int64), use_cache=False).logits[0, :-1],
                torch.tensor(labels[1:], dtype=torch.int64),
                reduction="sum",
            ).item()
            for i in range(3)
            for ids, labels in rows.row(i)
        ]
    assert losses == pytest.approx(expected, rel=1e-4)
