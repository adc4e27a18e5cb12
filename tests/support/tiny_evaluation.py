"""A tiny base, an adapter of it that was really trained, and held-out rows as prepare_data leaves them."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter
from mafunzo.entities.conversation import conversation_from_dict
from tests.support.chat_families import encode_with_labels

ANSWERS = ("I went for a walk.", "I live near the sea.", "It will be sunny.", "You are welcome.")
QUESTIONS = ("How are you today?", "Where do you live?", "What will the weather be?", "Thank you very much.")


@dataclass(frozen=True)
class Folders:
    base: Path
    tuned: Path
    prepared: Path


def make_folders(root: Path) -> Folders:
    """Write a base, an adapter trained on the held-out rows themselves, and the rows."""
    folders = Folders(root / "base", root / "tuned", root / "prepared")
    make("tiny-llama", 7, folders.base)
    prepare(folders.base, folders.prepared, conversations(24))
    train(folders.base, folders.tuned, folders.prepared)
    return folders


def conversations(count: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        turns = [(QUESTIONS[(i + k) % 4], ANSWERS[(i + k) % 4]) for k in range(1 + i % 3)]
        messages = [
            {"role": role, "content": text}
            for question, answer in turns
            for role, text in (("user", question), ("assistant", answer))
        ]
        rows.append({"messages": messages, "file": "test.jsonl", "row": i + 1})
    return rows


def prepare(base: Path, folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    tokenizer = load_tokenizer(base)
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoded = [encode_with_labels(tokenizer, conversation_from_dict(row)) for row in rows]
    columns = {
        "input_ids": pa.array([ids for ids, _ in encoded], pa.list_(pa.int32())),
        "labels": pa.array([labels for _, labels in encoded], pa.list_(pa.int32())),
        "file": pa.array([row["file"] for row in rows]),
        "row": pa.array([row["row"] for row in rows], pa.int64()),
    }
    pq.write_table(pa.table(columns), folder / "test.parquet")


def train(base: Path, folder: Path, prepared: Path) -> None:
    torch.manual_seed(1)
    network = load_network(base)
    config = AdapterConfig(r=4, alpha=8)
    add_adapter(network, config)
    weights = [weight for _, layer in adapters(network) for weight in (layer.lora_A, layer.lora_B)]
    optimizer = torch.optim.AdamW(weights, lr=2e-2)
    rows = pq.read_table(prepared / "test.parquet").to_pylist()
    for row in rows[:12]:
        network(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_adapter(network, config, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, folder)
