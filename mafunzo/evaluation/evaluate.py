"""The evaluation: base and tuned model, one after the other, on the same rows, prompts and general questions."""

import gc
import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mafunzo.chat.network import load_network
from mafunzo.chat.template import render_ids
from mafunzo.chat.tokenizer import context_length, load_tokenizer
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.errors import InvalidParameter, NotSupported
from mafunzo.evaluation import forgetting, metrics, tasks
from mafunzo.evaluation.compare import Comparison, Estimate, compare, estimate_ratio
from mafunzo.evaluation.config import EvaluationConfig
from mafunzo.evaluation.forgetting import RenderedReply
from mafunzo.evaluation.generation import generate
from mafunzo.evaluation.likelihood import likelihood_sums, vocabulary_size
from mafunzo.evaluation.metrics import Floats
from mafunzo.evaluation.serving_reference import stop_token_ids
from mafunzo.tracking import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to evaluate. `tuned` is an adapter's folder, or a whole model's; -1 rows means all.

    merge: an adapter is added into the weights first, as it will be served. dtype: of both networks; None as they are stored.
    """

    base: Path
    tuned: Path
    prepared: Path
    merge: bool = True
    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    max_evaluation_rows: int = -1
    generation_rows: int = 50
    max_new_tokens: int = 64
    forgetting_prompts: int = -1
    seed: int = 42
    dtype: torch.dtype | None = None
    device: str = "cpu"
    trust_remote_code: bool = False

    @property
    def is_adapter(self) -> bool:
        return (self.tuned / "adapter_config.json").exists()


@dataclass(frozen=True)
class Sample:
    """One held-out conversation with the reference's reply and both models'."""

    prompt: Conversation
    reference: str
    base: str
    tuned: str
    file: str
    row: int


@dataclass(frozen=True)
class Forgetting:
    """What tuning changed on general prompts. `kl` in nats a token; `same_top_token` the share of positions."""

    kl: Estimate
    same_top_token: Estimate
    prompts: int
    positions: int
    reply_tokens: int
    kl_by_prompt: list[float]
    topics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What was found. `comparisons` by metric; the arrays are row by row, for pictures."""

    comparisons: dict[str, Comparison]
    forgetting: Forgetting | None
    samples: list[Sample]
    base_loss_by_row: Floats
    tuned_loss_by_row: Floats
    rouge_by_row: dict[str, dict[str, list[float]]]
    facts: dict[str, Any]


@dataclass
class _Answers:
    """What one network gave."""

    likelihood: Floats
    replies: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    generated_tokens: int = 0


@dataclass(frozen=True)
class _Questions:
    """What both networks are asked; prompts are token ids."""

    rows: list[tasks.EncodedRow]
    reply_tasks: list[tasks.ReplyTask]
    reply_prompts: list[list[int]]
    general: list[tasks.GeneralPrompt]
    general_prompts: list[list[int]]
    stop_token_ids: list[int]
    skipped_long: int


def evaluate(request: Request, scratch: Path) -> Evaluation:
    """Evaluate both models; the base's distributions wait in a temporary file in the folder `scratch`."""
    started = time.monotonic()
    tokenizer = load_tokenizer(request.tuned, request.trust_remote_code)
    _check_same_tokens(tokenizer, load_tokenizer(request.base, request.trust_remote_code), request)
    questions = _questions(request, tokenizer)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        stored = Path(folder) / "base_logprobs.f16"
        with _network(request, "base") as network:
            vocabulary = vocabulary_size(network)
            base = _ask(network, "base", request, questions, tokenizer)
            with _timed(base.seconds, "forgetting"):
                replies = _general_replies(network, request, questions, vocabulary)
                _write_base(network, replies, stored)
            facts = _facts(request, network, questions)
        with _network(request, "tuned") as network:
            tuned = _ask(network, "tuned", request, questions, tokenizer)
            with _timed(tuned.seconds, "forgetting"):
                divergence = _divergence(network, replies, stored)
    facts["seconds"] = {"base": base.seconds, "tuned": tuned.seconds, "all": round(time.monotonic() - started, 1)}
    facts["generated_tokens"] = {"base": base.generated_tokens, "tuned": tuned.generated_tokens}
    return _evaluation(request, questions, base, tuned, divergence, replies, facts)


def _questions(request: Request, tokenizer: Any) -> _Questions:
    rows = tasks.held_out_rows(request.prepared)
    rows = [rows[i] for i in tasks.sample_indices(len(rows), request.max_evaluation_rows, request.seed)]
    wants_replies = any(metrics.metrics()[name].source == "reply" for name in request.config.metrics)
    found = tasks.reply_tasks(request.prepared) if wants_replies and request.generation_rows else []
    prompts = [render_ids(tokenizer, task.prompt, add_generation_prompt=True) for task in found]
    longest = (context_length(tokenizer, request.base) or 1 << 30) - request.max_new_tokens
    fitting = [i for i, ids in enumerate(prompts) if len(ids) <= longest]
    chosen = [fitting[i] for i in tasks.sample_indices(len(fitting), request.generation_rows, request.seed)]
    general = tasks.general_prompts()
    general = general if request.forgetting_prompts < 0 else general[: request.forgetting_prompts]
    asked = [Conversation((Message("user", prompt.prompt),)) for prompt in general]
    return _Questions(
        rows=rows,
        reply_tasks=[found[i] for i in chosen],
        reply_prompts=[prompts[i] for i in chosen],
        general=general,
        general_prompts=[render_ids(tokenizer, conversation, add_generation_prompt=True) for conversation in asked],
        stop_token_ids=stop_token_ids(request.base, request.tuned, tokenizer, request.trust_remote_code),
        skipped_long=len(prompts) - len(fitting),
    )


@contextmanager
def _network(request: Request, which: str) -> Iterator[PreTrainedModel]:
    """Load one of the two networks, and free it afterwards: they are never in memory together."""
    logger.info("Loading the %s model", which)
    is_whole = which == "tuned" and not request.is_adapter
    network = load_network(
        request.tuned if is_whole else request.base,
        adapter=request.tuned if which == "tuned" and request.is_adapter else None,
        merge=request.merge,
        dtype=request.dtype,
        device=request.device,
        trust_remote_code=request.trust_remote_code,
    )
    try:
        yield network
    finally:
        del network
        gc.collect()
        if request.device.startswith("cuda"):
            torch.cuda.empty_cache()


def _ask(network: PreTrainedModel, which: str, request: Request, questions: _Questions, tokenizer: Any) -> _Answers:
    seconds: dict[str, float] = {}
    with _timed(seconds, "loss"):
        progress = Progress(f"{which}: loss", len(questions.rows))
        likelihood = likelihood_sums(network, questions.rows, request.config.batch_size, progress.update)
    answers = _Answers(likelihood, seconds=seconds)
    if questions.reply_prompts:
        with _timed(seconds, "replies"):
            progress = Progress(f"{which}: replies", len(questions.reply_prompts))
            replies = generate(
                network,
                questions.reply_prompts,
                request.max_new_tokens,
                questions.stop_token_ids,
                request.config.batch_size,
                progress.update,
            )
        answers.replies = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in replies]
        answers.generated_tokens = sum(len(ids) for ids in replies)
    return answers


def _general_replies(
    network: PreTrainedModel, request: Request, questions: _Questions, vocabulary: int
) -> list[RenderedReply]:
    if not questions.general_prompts:
        return []
    count = forgetting.reply_tokens_that_fit(len(questions.general_prompts), vocabulary)
    progress = Progress("base: general replies", len(questions.general_prompts))
    batch_size = max(request.config.batch_size, 64)
    replies = generate(network, questions.general_prompts, count, questions.stop_token_ids, batch_size, progress.update)
    return [RenderedReply(prompt, reply) for prompt, reply in zip(questions.general_prompts, replies, strict=True)]


def _write_base(network: PreTrainedModel, replies: Sequence[RenderedReply], stored: Path) -> None:
    if replies:
        forgetting.write_base(network, replies, stored, Progress("base: distributions", len(replies)).update)


def _divergence(network: PreTrainedModel, replies: Sequence[RenderedReply], stored: Path) -> Floats | None:
    if not replies:
        return None
    return forgetting.divergence_sums(network, replies, stored, Progress("tuned: divergence", len(replies)).update)


def _evaluation(
    request: Request,
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
    wanted = [metric for name, metric in metrics.metrics(config.smoothing).items() if name in config.metrics]
    compared = {
        comparison.name: comparison
        for source, pair in sums.items()
        for comparison in compare([m for m in wanted if m.source == source], *pair, seed=request.seed)
    }
    pairs = zip(questions.reply_tasks, base.replies, tuned.replies, strict=True)
    return Evaluation(
        comparisons={metric.name: compared[metric.name] for metric in wanted if metric.name in compared},
        forgetting=None if divergence is None else _forgetting(request, questions, divergence, replies),
        samples=[Sample(task.prompt, task.reference, b, t, task.file, task.row) for task, b, t in pairs],
        base_loss_by_row=base.likelihood[:, 0] / base.likelihood[:, 1],
        tuned_loss_by_row=tuned.likelihood[:, 0] / tuned.likelihood[:, 1],
        rouge_by_row=_rouge_by_row(sums["reply"], config) if "reply" in sums else {},
        facts=facts,
    )


def _forgetting(
    request: Request, questions: _Questions, divergence: Floats, replies: Sequence[RenderedReply]
) -> Forgetting:
    by_prompt = divergence[:, 0] / divergence[:, 1]
    topics = sorted({prompt.topic for prompt in questions.general})
    of_topic = {topic: [i for i, p in enumerate(questions.general) if p.topic == topic] for topic in topics}
    return Forgetting(
        kl=estimate_ratio(divergence[:, 0], divergence[:, 1], request.seed),
        same_top_token=estimate_ratio(divergence[:, 2], divergence[:, 1], request.seed),
        prompts=len(by_prompt),
        positions=int(divergence[:, 1].sum()),
        reply_tokens=max(len(reply.reply_ids) for reply in replies),
        kl_by_prompt=[float(value) for value in by_prompt],
        topics={t: float(divergence[rows, 0].sum() / divergence[rows, 1].sum()) for t, rows in of_topic.items()},
    )


def _rouge_by_row(pair: tuple[Floats, Floats], config: EvaluationConfig) -> dict[str, dict[str, list[float]]]:
    """Return every row's own ROUGE where they aren't to be aggregated only."""
    names = [name for name in metrics.ROUGE_NAMES if name in config.metrics]
    if config.aggregator:
        return {}
    return {
        which: {name: [float(v) for v in sums[:, metrics.REPLY_COLUMNS.index(name)]] for name in names}
        for which, sums in zip(("base", "tuned"), pair, strict=True)
    }


def _facts(request: Request, network: PreTrainedModel, questions: _Questions) -> dict[str, Any]:
    return {
        "base": _model_facts(request.base),
        "tuned": {"kind": "adapter" if request.is_adapter else "whole model", "merged": request.merge},
        "architecture": str(network.config.model_type),
        "parameters_count": sum(p.numel() for p in network.parameters()),
        "dtype": str(network.dtype).removeprefix("torch."),
        "device": _device_name(request.device),
        "stop_token_ids": questions.stop_token_ids,
        "data": {
            "rows": len(questions.rows),
            "tokens": sum(len(row.input_ids) for row in questions.rows),
            "assistant_tokens": sum(label != -100 for row in questions.rows for label in row.labels[1:]),
            "files": sorted({row.file for row in questions.rows}),
            "replies": len(questions.reply_prompts),
            "prompts_too_long": questions.skipped_long,
            "test_sha256": hashlib.sha256((request.prepared / "test.parquet").read_bytes()).hexdigest(),
        },
        "settings": {
            "max_new_tokens": request.max_new_tokens,
            "decoding": "greedy",
            "seed": request.seed,
            **asdict(request.config),
        },
    }


def _model_facts(base: Path) -> dict[str, Any]:
    path = base / "mafunzo_model.json"
    facts: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {key: facts[key] for key in ("name", "version", "source", "licence", "weights_sha256") if key in facts}


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"CPU {platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _check_same_tokens(tuned: Any, base: Any, request: Request) -> None:
    """Losses a token compare only where the tokens are the same."""
    if tuned.get_vocab() != base.get_vocab():
        raise NotSupported(
            f"{request.tuned} and {request.base} cut text into different tokens, so their losses a token can't be compared. "
            "Compare a tuned model with the base that it was tuned from."
        )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)


def check_gate_metric(demand: str, metric: str, request: Request) -> None:
    """Raise `InvalidParameter` for a gate on something that isn't measured."""
    if demand == "none":
        return
    if metric not in request.config.metrics:
        raise InvalidParameter(
            f"gate_metric is '{metric}', which the evaluation's configuration leaves out of metrics."
        )
    if metrics.metrics()[metric].source == "reply" and request.generation_rows == 0:
        raise InvalidParameter(f"gate_metric is '{metric}', which needs replies, but generation_rows is 0.")
