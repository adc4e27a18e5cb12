"""Evaluation tasks: held-out (test split) rows as tokens, held-out conversations as prompts, prompts of other domains."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from mafunzo.compute.chat.template import render_ids
from mafunzo.entities.conversation import Conversation, conversation_from_dict
from mafunzo.errors import InvalidFile


@dataclass(frozen=True)
class EncodedRow:
    """A tokenized conversation; `labels` is -100 outside the loss mask."""

    input_ids: list[int]
    labels: list[int]
    file: str
    row: int


@dataclass(frozen=True)
class ReplyTask:
    """A conversation up to an assistant turn (`prompt`, whose token ids are `prompt_ids`), and that turn (`reference`)."""

    prompt: Conversation
    prompt_ids: list[int]
    reference: str
    file: str
    row: int


@dataclass(frozen=True)
class GeneralPrompt:
    """A question of another domain than the tuning data's."""

    topic: str
    prompt: str


def held_out_rows(folder: Path) -> list[EncodedRow]:
    """Read `test.parquet`. Raises `InvalidFile` if it is missing or has no row."""
    path = folder / "test.parquet"
    if not path.exists():
        raise InvalidFile(f"{folder} has no test.parquet: it isn't prepare_data's output.")
    table = pyarrow.parquet.read_table(path)
    rows = [EncodedRow(**row) for row in table.select(["input_ids", "labels", "file", "row"]).to_pylist()]
    if not rows:
        raise InvalidFile(f"{path} has no rows, so there is nothing to evaluate on. Give a test file, or more data.")
    return rows


def reply_tasks(
    folder: Path, tokenizer: Any, count: int, most_tokens: int, context_tokens: int, seed: int
) -> tuple[list[ReplyTask], int]:
    """Draw `count` conversations of `raw/test.jsonl` (-1: all), and return them in order, with how many can't be used.

    A reply is asked for at the last assistant turn, of those that aren't excluded from training; where the prompt would be
    longer than `most_tokens`, at the last one where it isn't, else at the first. A prompt of more than `context_tokens` can't
    be used; another row takes its place.
    """
    rows = raw_rows(folder)
    count = len(rows) if count < 0 else count
    order = np.random.default_rng(seed).permutation(len(rows))
    tasks: dict[int, ReplyTask] = {}
    unusable = 0
    for index in order:
        if len(tasks) == count:
            break
        task = _reply_task(rows[index], tokenizer, most_tokens)
        if task is not None and len(task.prompt_ids) <= context_tokens:
            tasks[int(index)] = task
        else:
            unusable += 1
    return [tasks[index] for index in sorted(tasks)], unusable


def raw_rows(folder: Path) -> list[dict[str, Any]]:
    """Read `raw/test.jsonl`: the normalised held-out rows, before they became tokens."""
    path = folder / "raw" / "test.jsonl"
    if not path.exists():
        raise InvalidFile(f"{folder} has no raw/test.jsonl: it isn't prepare_data's output.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def general_prompts() -> list[GeneralPrompt]:
    """Return the prompts of other domains that come with Mafunzo; any prefix of the list is varied too."""
    text = files("mafunzo.compute.evaluation").joinpath("prompts.jsonl").read_text(encoding="utf-8")
    return [GeneralPrompt(**json.loads(line)) for line in text.splitlines()]


def sample_indices(total: int, count: int, seed: int) -> list[int]:
    """Return `count` of `range(total)` (all if it is -1 or more than there are), drawn without replacement, in order."""
    if count < 0 or count >= total:
        return list(range(total))
    return sorted(int(index) for index in np.random.default_rng(seed).choice(total, size=count, replace=False))


def batches_by_length(lengths: Sequence[int], most_rows: int, most_tokens: int) -> list[list[int]]:
    """Group indices into batches of similar length (bucketing): at most `most_tokens` with padding, or one row."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        batch = batches[-1] if batches else []
        if batch and len(batch) < most_rows and lengths[batch[0]] * (len(batch) + 1) <= most_tokens:
            batch.append(index)
        else:
            batches.append([index])
    return batches


def _reply_task(body: dict[str, Any], tokenizer: Any, most_tokens: int) -> ReplyTask | None:
    conversation = conversation_from_dict(body)
    turns = [i for i, m in enumerate(conversation.messages) if i > 0 and m.is_trained and m.content]
    task = None
    for turn in reversed(turns):
        prompt = Conversation(conversation.messages[:turn], conversation.tools)
        ids = render_ids(tokenizer, prompt, add_generation_prompt=True)
        reference = str(conversation.messages[turn].content)
        task = ReplyTask(prompt, ids, reference, str(body.get("file", "")), int(body.get("row", 0)))
        if len(ids) <= most_tokens:
            break
    return task
