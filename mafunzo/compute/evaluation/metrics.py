"""Evaluation metrics: loss, perplexity, token accuracy, ROUGE, BLEU. Each is a function of sums over rows, so that a
bootstrap over rows is one matrix product.

A row's sums stand in `LIKELIHOOD_COLUMNS` where they come from the log-probabilities of the reference reply, in
`REPLY_COLUMNS` where they come from the generated text. Adding a metric is one function and its line in `metrics()`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LIKELIHOOD_COLUMNS = ("loss_sum", "tokens", "correct")
ROUGE_NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
BLEU_ORDER = 4
REPLY_COLUMNS = (
    "replies",
    *ROUGE_NAMES,
    *(f"matches_{n}" for n in range(1, BLEU_ORDER + 1)),
    *(f"possible_{n}" for n in range(1, BLEU_ORDER + 1)),
    "reply_words",
    "reference_words",
)


@dataclass(frozen=True)
class Metric:
    """One metric. `value` maps sums, shaped (..., columns of `source`), to values, shaped (...)."""

    name: str
    title: str
    source: Literal["likelihood", "reply"]
    is_higher_better: bool
    value: Callable[[Floats], Floats]


def loss(sums: Floats) -> Floats:
    """Mean negative log-likelihood of the assistants' tokens, in nats a token."""
    return sums[..., 0] / sums[..., 1]


def perplexity(sums: Floats) -> Floats:
    """exp(loss): perplexity under the model itself, not under another that scores its text."""
    return np.exp(loss(sums))


def token_accuracy(sums: Floats) -> Floats:
    """Share of the assistants' tokens that are the network's most probable one (top-1)."""
    return sums[..., 2] / sums[..., 1]


def rouge(name: str) -> Callable[[Floats], Floats]:
    """Return the mean F-measure of the replies (Lin 2004, as google-research's rouge-score computes it), 0 to 1."""
    column = REPLY_COLUMNS.index(name)
    return lambda sums: sums[..., column] / sums[..., 0]


def bleu(order: int, is_smoothed: bool = False) -> Callable[[Floats], Floats]:
    """Return corpus BLEU of n-grams up to `order`, 0 to 1 (Papineni et al. 2002); smoothed as in Lin and Och 2004."""
    first_match, first_possible = REPLY_COLUMNS.index("matches_1"), REPLY_COLUMNS.index("possible_1")

    def value(sums: Floats) -> Floats:
        matches = sums[..., first_match : first_match + order] + float(is_smoothed)
        possible = sums[..., first_possible : first_possible + order] + float(is_smoothed)
        words, reference_words = sums[..., -2], sums[..., -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            log_precision = np.where(matches > 0, np.log(matches / possible), -np.inf).mean(axis=-1)
            log_brevity = np.where(words > 0, np.minimum(0.0, 1.0 - reference_words / words), -np.inf)
        return np.asarray(np.exp(log_precision + log_brevity))

    return value


def metrics(is_smoothed: bool = False) -> dict[str, Metric]:
    """Return every metric by name, in the order of reports."""
    rows = [
        Metric("loss", "Loss (nats a token)", "likelihood", False, loss),
        Metric("perplexity", "Perplexity", "likelihood", False, perplexity),
        Metric("token_accuracy", "Token accuracy", "likelihood", True, token_accuracy),
        *(Metric(name, name.replace("rouge", "ROUGE-"), "reply", True, rouge(name)) for name in ROUGE_NAMES),
        *(
            Metric(f"bleu_{order}", f"BLEU-{order}", "reply", True, bleu(order, is_smoothed))
            for order in range(1, BLEU_ORDER + 1)
        ),
    ]
    return {metric.name: metric for metric in rows}


def reply_sums(replies: Sequence[str], references: Sequence[str], tokenizer: str, is_stemmed: bool) -> Floats:
    """Return the sums of each reply against its reference, shaped (rows, `REPLY_COLUMNS`).

    `tokenizer` is one of sacrebleu's (BLEU only); `is_stemmed` takes Porter stems before ROUGE.
    """
    from rouge_score import rouge_scorer  # loads nltk, which takes two seconds
    from sacrebleu.metrics import BLEU

    scorer = rouge_scorer.RougeScorer(list(ROUGE_NAMES), use_stemmer=is_stemmed)
    counter = BLEU(tokenize=tokenizer, smooth_method="none", max_ngram_order=BLEU_ORDER, effective_order=True)
    rows = [_reply_row(scorer, counter, *pair) for pair in zip(replies, references, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(REPLY_COLUMNS))


def _reply_row(scorer: Any, counter: Any, reply: str, reference: str) -> list[float]:
    rouges = scorer.score(reference, reply)
    score = counter.sentence_score(reply, [reference])
    return [
        1.0,
        *(float(rouges[name].fmeasure) for name in ROUGE_NAMES),
        *score.counts,
        *score.totals,
        score.sys_len,
        score.ref_len,
    ]
