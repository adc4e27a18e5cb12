"""The evaluation: base and tuned model, one after the other, on the same test rows, prompts and general questions."""

import gc
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mafunzo.compute.chat.examples import IGNORED
from mafunzo.compute.chat.template import render_ids
from mafunzo.compute.chat.tokenizer import context_length, load_tokenizer
from mafunzo.compute.device import precision
from mafunzo.compute.evaluation import forgetting, metrics, tasks
from mafunzo.compute.evaluation.compare import compare, estimate_ratio
from mafunzo.compute.evaluation.forgetting import RenderedReply
from mafunzo.compute.evaluation.likelihood import likelihood_sums, vocabulary_size
from mafunzo.compute.evaluation.metrics import Floats
from mafunzo.compute.evaluation.request import EvaluationRequest
from mafunzo.compute.evaluation.result import Evaluation, Forgetting, Sample
from mafunzo.compute.evaluation.serving_reference import stop_token_ids
from mafunzo.compute.inference.engine import Engine
from mafunzo.compute.inference.executor_torch import TorchExecutor
from mafunzo.compute.model.folder import read_facts, sha256
from mafunzo.compute.model.loading import load_network
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.entities.evaluation import EvaluationConfig
from mafunzo.errors import FailedError, InvalidData, NotSupported
from mafunzo.tracking.progress import Progress

logger = logging.getLogger(__name__)

GENERAL_BATCH_SIZE = 64


@dataclass
class _Answers:
    """Log-likelihood sums and replies of one network."""

    likelihood: Floats
    replies: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    generated_tokens: int = 0


@dataclass(frozen=True)
class _Questions:
    """The inputs of both networks. `general_prompts` are token ids."""

    rows: list[tasks.EncodedRow]
    reply_tasks: list[tasks.ReplyTask]
    general: list[tasks.GeneralPrompt]
    general_prompts: list[list[int]]
    stop_token_ids: list[int]
    unusable_prompts: int


def evaluate(request: EvaluationRequest, scratch: Path) -> Evaluation:
    """Evaluate both models; the base's distributions are kept in a temporary file in the folder `scratch`."""
    start_s = time.monotonic()
    tokenizer = load_tokenizer(request.tuned, request.arguments.trust_remote_code)
    _check_same_tokens(tokenizer, load_tokenizer(request.base, request.arguments.trust_remote_code), request)
    questions = _questions(request, tokenizer)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / "base_logprobs.f16"
        base, replies, facts = _ask_base(request, questions, tokenizer, file)
        tuned, divergence = _ask_tuned(request, questions, tokenizer, replies, file)
    facts["seconds"] = {"base": base.seconds, "tuned": tuned.seconds, "all": round(time.monotonic() - start_s, 1)}
    facts["generated_tokens"] = {"base": base.generated_tokens, "tuned": tuned.generated_tokens}
    return _evaluation(request, questions, base, tuned, divergence, replies, facts)


def _questions(request: EvaluationRequest, tokenizer: Any) -> _Questions:
    rows = tasks.held_out_rows(request.prepared)
    rows = [
        rows[i] for i in tasks.sample_indices(len(rows), request.arguments.max_evaluation_rows, request.arguments.seed)
    ]
    wants_replies = any(metrics.metrics()[name].source == "reply" for name in request.config.metrics)
    context = context_length(tokenizer, request.base) or 1 << 30
    reply_tasks, unusable = tasks.reply_tasks(
        request.prepared,
        tokenizer,
        request.arguments.generation_rows if wants_replies else 0,
        request.arguments.max_prompt_tokens,
        context - request.arguments.max_new_tokens,
        request.arguments.seed,
    )
    general = tasks.general_prompts()
    general = general if request.arguments.forgetting_prompts < 0 else general[: request.arguments.forgetting_prompts]
    conversations = [Conversation((Message("user", prompt.prompt),)) for prompt in general]
    return _Questions(
        rows=rows,
        reply_tasks=reply_tasks,
        general=general,
        general_prompts=[
            render_ids(tokenizer, conversation, add_generation_prompt=True) for conversation in conversations
        ],
        stop_token_ids=stop_token_ids(request.base, request.tuned, tokenizer, request.arguments.trust_remote_code),
        unusable_prompts=unusable,
    )


def _ask_base(
    request: EvaluationRequest, questions: _Questions, tokenizer: Any, file: Path
) -> tuple[_Answers, list[RenderedReply], dict[str, Any]]:
    executor = _open(request, "base")
    answers = _ask(executor, "base", request, questions, tokenizer)
    with _timed(answers.seconds, "forgetting"):
        replies = _general_replies(executor, request, questions, tokenizer)
        if replies:
            progress = Progress("base: distributions", len(replies))
            forgetting.write_base(executor.network, replies, file, progress.update)
    return answers, replies, _facts(request, executor, questions)


def _ask_tuned(
    request: EvaluationRequest, questions: _Questions, tokenizer: Any, replies: Sequence[RenderedReply], file: Path
) -> tuple[_Answers, Floats | None]:
    executor = _open(request, "tuned")
    answers = _ask(executor, "tuned", request, questions, tokenizer)
    divergence = None
    with _timed(answers.seconds, "forgetting"):
        if replies:
            progress = Progress("tuned: divergence", len(replies))
            divergence = forgetting.divergence_sums(executor.network, replies, file, progress.update)
    return answers, divergence


def _open(request: EvaluationRequest, which: str) -> TorchExecutor:
    """Load one of the two networks; the one before is freed first, so that they are never in memory together."""
    gc.collect()
    if request.device.startswith("cuda"):
        torch.cuda.empty_cache()
    logger.info("Loading the %s model", which)
    is_whole = which == "tuned" and not request.is_adapter
    network = load_network(
        request.tuned if is_whole else request.base,
        adapter=request.tuned if which == "tuned" and request.is_adapter else None,
        merge=request.arguments.merge_lora_weights,
        dtype=request.dtype,
        device=request.device,
        trust_remote_code=request.arguments.trust_remote_code,
    )
    return TorchExecutor(network, pack_weights=True)


def _ask(
    executor: TorchExecutor, which: str, request: EvaluationRequest, questions: _Questions, tokenizer: Any
) -> _Answers:
    seconds: dict[str, float] = {}
    with _timed(seconds, "loss"):
        progress = Progress(f"{which}: loss", len(questions.rows))
        likelihood = likelihood_sums(executor.network, questions.rows, request.config.batch_size, progress.update)
    _check_finite(likelihood, which, questions.rows)
    answers = _Answers(likelihood, seconds=seconds)
    if questions.reply_tasks:
        with _timed(seconds, "replies"):
            progress = Progress(f"{which}: replies", len(questions.reply_tasks))
            prompts = [task.prompt_ids for task in questions.reply_tasks]
            with _engine(executor, questions, tokenizer, request.config.batch_size) as engine:
                replies = engine.generate(prompts, request.arguments.max_new_tokens, on_progress=progress.update)
        answers.replies = [tokenizer.decode(reply.token_ids, skip_special_tokens=True).strip() for reply in replies]
        answers.generated_tokens = sum(len(reply.token_ids) for reply in replies)
    return answers


def _engine(executor: TorchExecutor, questions: _Questions, tokenizer: Any, batch_size: int) -> Engine:
    """Return an engine that keeps no prefixes: it would fill the memory with rows that are never asked again."""
    return Engine(executor, tokenizer, questions.stop_token_ids, batch_size, keeps_prefixes=False)


def _general_replies(
    executor: TorchExecutor, request: EvaluationRequest, questions: _Questions, tokenizer: Any
) -> list[RenderedReply]:
    if not questions.general_prompts:
        return []
    prompts, batch_size = questions.general_prompts, max(request.config.batch_size, GENERAL_BATCH_SIZE)
    count = forgetting.reply_tokens_that_fit(len(prompts), vocabulary_size(executor.network))
    progress = Progress("base: general replies", len(prompts))
    with _engine(executor, questions, tokenizer, batch_size) as engine:
        replies = engine.generate(prompts, count, on_progress=progress.update)
    return [RenderedReply(prompt, reply.token_ids) for prompt, reply in zip(prompts, replies, strict=True)]


def _evaluation(
    request: EvaluationRequest,
    questions: _Questions,
    base: _Answers,
    tuned: _Answers,
    divergence: Floats | None,
    replies: Sequence[RenderedReply],
    facts: dict[str, Any],
) -> Evaluation:
    references = [task.reference for task in questions.reply_tasks]
    config = request.config
    sums: dict[str, tuple[Floats, Floats]] = {"likelihood": (base.likelihood, tuned.likelihood)}
    if references:
        sums["reply"] = (
            metrics.reply_sums(base.replies, references, config.tokenizer, config.stemmer),
            metrics.reply_sums(tuned.replies, references, config.tokenizer, config.stemmer),
        )
    selection = [metric for name, metric in metrics.metrics(config.smoothing).items() if name in config.metrics]
    comparisons = {
        comparison.name: comparison
        for source, pair in sums.items()
        for comparison in compare([m for m in selection if m.source == source], *pair, seed=request.arguments.seed)
    }
    if not comparisons:
        raise InvalidData(
            "No held-out conversation has an assistant's turn that the model's context has room to answer."
        )
    pairs = zip(questions.reply_tasks, base.replies, tuned.replies, strict=True)
    return Evaluation(
        comparisons={metric.name: comparisons[metric.name] for metric in selection if metric.name in comparisons},
        forgetting=None if divergence is None else _forgetting(request, questions, divergence, replies),
        samples=[Sample(task.prompt, task.reference, b, t, task.file, task.row) for task, b, t in pairs],
        base_loss_by_row=base.likelihood[:, 0] / base.likelihood[:, 1],
        tuned_loss_by_row=tuned.likelihood[:, 0] / tuned.likelihood[:, 1],
        rouge_by_row=_rouge_by_row(sums["reply"], config) if "reply" in sums else {},
        facts=facts,
    )


def _forgetting(
    request: EvaluationRequest, questions: _Questions, divergence: Floats, replies: Sequence[RenderedReply]
) -> Forgetting:
    by_prompt = divergence[:, 0] / divergence[:, 1]
    topics = sorted({prompt.topic for prompt in questions.general})
    of_topic = {topic: [i for i, p in enumerate(questions.general) if p.topic == topic] for topic in topics}
    return Forgetting(
        kl=estimate_ratio(divergence[:, 0], divergence[:, 1], request.arguments.seed),
        same_top_token=estimate_ratio(divergence[:, 2], divergence[:, 1], request.arguments.seed),
        prompts=len(by_prompt),
        positions=int(divergence[:, 1].sum()),
        reply_tokens=max(len(reply.reply_ids) for reply in replies),
        kl_by_prompt=[float(value) for value in by_prompt],
        topics={t: float(divergence[rows, 0].sum() / divergence[rows, 1].sum()) for t, rows in of_topic.items()},
    )


def _rouge_by_row(pair: tuple[Floats, Floats], config: EvaluationConfig) -> dict[str, dict[str, list[float]]]:
    """Return ROUGE row by row, unless the configuration aggregates it."""
    names = [name for name in metrics.ROUGE_NAMES if name in config.metrics]
    if config.aggregator:
        return {}
    return {
        which: {name: [float(v) for v in sums[:, metrics.REPLY_COLUMNS.index(name)]] for name in names}
        for which, sums in zip(("base", "tuned"), pair, strict=True)
    }


def _facts(request: EvaluationRequest, executor: TorchExecutor, questions: _Questions) -> dict[str, Any]:
    """Return the provenance (model, data, device): the part of a report that makes it reproducible."""
    facts, rows = read_facts(request.base), questions.rows
    return {
        "base": {key: facts[key] for key in ("name", "version", "source", "licence", "weights_sha256") if key in facts},
        "tuned": {
            "kind": "adapter" if request.is_adapter else "whole model",
            "merged": request.arguments.merge_lora_weights,
        },
        "architecture": str(executor.network.config.model_type),
        "parameters_count": executor.parameters,
        "dtype": precision.name(executor.dtype),
        "device": _device_name(request.device),
        "stop_token_ids": questions.stop_token_ids,
        "data": {
            "rows": len(rows),
            "tokens": sum(len(row.input_ids) for row in rows),
            "assistant_tokens": sum(label != IGNORED for row in rows for label in row.labels[1:]),
            "files": sorted({row.file for row in rows}),
            "test_sha256": sha256(request.prepared / "test.parquet"),
            "replies": len(questions.reply_tasks),
            "unusable_prompts": questions.unusable_prompts,
        },
        "settings": {
            "max_prompt_tokens": request.arguments.max_prompt_tokens,
            "max_new_tokens": request.arguments.max_new_tokens,
            "decoding": "greedy",
            "seed": request.arguments.seed,
            **asdict(request.config),
        },
    }


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"CPU {platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _check_same_tokens(tuned: Any, base: Any, request: EvaluationRequest) -> None:
    """Refuse two vocabularies: losses a token compare only over the same tokens."""
    if tuned.get_vocab() != base.get_vocab():
        raise NotSupported(
            f"{request.tuned} and {request.base} cut text into different tokens, so their losses a token can't be compared. "
            "Compare a tuned model with the base that it was tuned from."
        )


def _check_finite(likelihood: Floats, which: str, rows: Sequence[tasks.EncodedRow]) -> None:
    faults = [row for row, sums in zip(rows, likelihood, strict=True) if not np.isfinite(sums).all()]
    if faults:
        raise FailedError(
            f"The {which} model gives no finite loss on {len(faults)} of {len(rows)} rows, the first one {faults[0].file}, "
            f"row {faults[0].row}: its weights are broken. If its training diverged, lower learning_rate."
        )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start_s = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start_s, 1)
