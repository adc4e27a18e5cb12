"""Tiny random networks and prepared rows that the tests of training share."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 67
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "phi3": Phi3Config(**SIZES),
    "phi3 with a window": Phi3Config(**SIZES, sliding_window=4),
    "mistral with a window": MistralConfig(**SIZES, sliding_window=5),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "gemma2": Gemma2Config(
        **SIZES, head_dim=8, sliding_window=4, attn_logit_softcapping=5.0, final_logit_softcapping=3.0
    ),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
}


def tiny(family: str = "llama", seed: int = 0, attention: str = "eager") -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(CONFIGS[family], attn_implementation=attention).eval()


def random_rows(count: int, seed: int = 0, shortest: int = 6, longest: int = 30) -> list[tuple[list[int], list[int]]]:
    """Rows with the first third masked, as a prompt is."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        rows.append((ids, [-100] * (length // 3) + ids[length // 3 :]))
    return rows


def learnable_rows(count: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Rows whose every token is the one before plus one, so that a tiny network can learn them."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        first = int(torch.randint(3, 40, (), generator=generator))
        length = int(torch.randint(8, 20, (), generator=generator))
        ids = list(range(first, first + length))
        rows.append((ids, [-100, -100, *ids[2:]]))
    return rows


def write_prepared(folder: Path, train: list, validation: list | None = None) -> Path:
    """Write what prepare_data writes, as far as training reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", validation)):
        if rows is None:
            continue
        tokens = pa.list_(pa.int32())
        table = pa.table(
            {
                "input_ids": pa.array([ids for ids, _ in rows], tokens),
                "labels": pa.array([labels for _, labels in rows], tokens),
                "file": ["train.jsonl"] * len(rows),
                "row": pa.array(range(len(rows)), pa.int64()),
            }
        )
        pq.write_table(table, folder / f"{name}.parquet")
    shutil.copytree(_written_tokenizer().name, folder / "tokenizer", dirs_exist_ok=True)
    return folder


@cache
def _written_tokenizer() -> TemporaryDirectory:
    """Write the tokenizer once for all tests of a process; they get copies."""
    folder = TemporaryDirectory()
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", pad_token="<pad>")
    fast.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    fast.save_pretrained(folder.name)
    return folder


def write_base(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
    shutil.copytree(_written_base(family, dtype).name, folder, dirs_exist_ok=True)
    return folder


@cache
def _written_base(family: str, dtype: torch.dtype) -> TemporaryDirectory:
    """Write a network once for all tests of a process; they get copies."""
    folder = TemporaryDirectory()
    tiny(family).to(dtype).save_pretrained(folder.name)
    return folder
