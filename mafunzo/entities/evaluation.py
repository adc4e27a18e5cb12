"""What may be chosen of an evaluation: the keys of `evaluation_config` and `evaluation_config_params`, honoured or refused.

The names and defaults are those of Azure ML's evaluation components.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mafunzo.entities.component import unknown_name
from mafunzo.entities.metric_name import LIKELIHOOD_METRICS, METRIC_NAMES
from mafunzo.errors import InvalidFile, InvalidParameter

Check = Callable[[str, Any], list[str]]

LEAST_ROWS = 20
"""Fewer rows give no verdict, and no gate passes by them: percentiles of a bootstrap of so few are too narrow.

Measured by simulation (1,500 samples a cell): a 95% interval of the mean holds the true one in 0, 75, 84, 91 and 94% of normal
samples of 1, 3, 5, 10 and 20 rows, and in 0, 72, 79, 84 and 90% of skewed (exponential) ones.
"""
BLEU_TOKENIZERS = ("13a", "intl", "char", "zh", "none")
JUDGED = ("conversation_groundedness_score", "gpt_groundedness", "gpt_relevance", "gpt_retrieval_score")
REFUSED: Mapping[str, str] = {
    "openai_config_params": "metrics that another model judges aren't supported; leave it out.",
    "model_id": "perplexity is measured with the evaluated model itself, never with another; leave it out.",
}


@dataclass(frozen=True)
class EvaluationConfig:
    """The choices that were made.

    metrics: which to measure. tokenizer: sacrebleu's, for BLEU. smoothing: BLEU's counts plus one. stemmer: Porter stems
    for ROUGE. aggregator: False adds every row's own ROUGE to `metrics.json`. batch_size: most rows in one forward.
    """

    metrics: tuple[str, ...] = METRIC_NAMES
    tokenizer: str = "13a"
    smoothing: bool = False
    stemmer: bool = False
    aggregator: bool = True
    batch_size: int = 16


def evaluation_config(texts: Mapping[str, str]) -> EvaluationConfig:
    """Read JSON texts by where they come from; a key of a later one wins. Raises `InvalidFile` or `InvalidParameter`."""
    settings: dict[str, Any] = {}
    for where, text in texts.items():
        settings |= _object(text, where)
    faults = [fault for key, value in settings.items() for fault in _faults(key, value)]
    if faults:
        raise InvalidParameter("The evaluation's configuration can't be used.", faults)
    known = {key: value for key, value in settings.items() if key in _CHECKS and value is not None}
    if "metrics" in known:
        known["metrics"] = tuple(name for name in METRIC_NAMES if name in known["metrics"])
    return EvaluationConfig(**{key: known[key] for key in known if key not in _FIXED})


def unmeasured(config: EvaluationConfig, generation_rows: int, gate: str, gate_metric: str) -> list[str]:
    """Return the faults where nothing would be measured, or not what the gate looks at."""
    without_replies = [name for name in config.metrics if name in LIKELIHOOD_METRICS]
    if generation_rows == 0 and not without_replies:
        return ["Every metric that was asked for needs replies, but generation_rows is 0."]
    if gate == "none":
        return []
    if gate_metric not in config.metrics:
        return [f"gate_metric is '{gate_metric}', which the configuration's metrics leave out."]
    if generation_rows == 0 and gate_metric not in without_replies:
        return [f"gate_metric is '{gate_metric}', which needs replies, but generation_rows is 0."]
    return []


def too_few(values: Mapping[str, Any]) -> list[str]:
    """Return the faults where a gate is asked for that can't pass, since too little is measured for it.

    values: the parameters of the evaluation. -1 rows are all that there are, which only the evaluation counts.
    """
    gate_metric, max_kl = values["gate_metric"], values["gate_max_kl"]
    limits: list[tuple[str, str]] = []
    if values["gate"] != "none":
        rows_of = "max_evaluation_rows" if gate_metric in LIKELIHOOD_METRICS else "generation_rows"
        if (rows_of, values[rows_of]) != ("generation_rows", 0):  # which `unmeasured` tells of
            limits.append((rows_of, f"gate is {values['gate']}, by the interval of {gate_metric}"))
    if max_kl is not None:
        limits.append(("forgetting_prompts", f"gate_max_kl is {max_kl:g}"))
    return [
        f"{name} is {values[name]} while {why}, which needs {LEAST_ROWS} or more. Raise it, or leave the gate out."
        for name, why in limits
        if 0 <= values[name] < LEAST_ROWS
    ]


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise InvalidFile(f"{where} is not JSON: {error}. Give an object such as {{'metrics': ['rouge1']}}.") from error
    if not isinstance(body, dict):
        raise InvalidFile(f"{where} is a {type(body).__name__}, expected an object such as {{'metrics': ['rouge1']}}.")
    return body


def _faults(key: str, value: Any) -> list[str]:
    if value is None and (key in _CHECKS or key in REFUSED):
        return []
    if key in REFUSED:
        return [f"{key} is {value!r}: {REFUSED[key]}"]
    if key in _CHECKS:
        return _CHECKS[key](key, value)
    return [unknown_name(key, [*_CHECKS, *REFUSED])]


def _metric_names(key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        return [f"{key} is {value!r}, expected a list of names out of {', '.join(METRIC_NAMES)}."]
    judged = [
        f"{key}: {name} needs another model as a judge, which isn't supported." for name in value if name in JUDGED
    ]
    unknown = [name for name in value if name not in METRIC_NAMES and name not in JUDGED]
    return judged + [f"{key}: {unknown_name(name, METRIC_NAMES)}" for name in unknown]


def _tokenizer(key: str, value: Any) -> list[str]:
    return [] if value in BLEU_TOKENIZERS else [f"{key} is {value!r}, expected one of {', '.join(BLEU_TOKENIZERS)}."]


def _truth(key: str, value: Any) -> list[str]:
    return [] if isinstance(value, bool) else [f"{key} is {value!r}, expected true or false."]


def _batch_size(key: str, value: Any) -> list[str]:
    is_size = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return [] if is_size else [f"{key} is {value!r}, expected a whole number, 1 or more."]


def _only(fixed_value: bool, reason: str) -> Check:
    return lambda key, value: [] if value is fixed_value else [f"{key} is {value!r}: {reason}"]


_FIXED: Mapping[str, Check] = {
    "add_start_token": _only(True, "the chat template decides what a conversation starts with; leave it out."),
    "score_all_conversations": _only(False, "replies are generated for the last assistant turn only; leave it out."),
    "use_previous_conversation": _only(
        False, "a reply is generated after the reference's own earlier turns; leave it out."
    ),
}
_CHECKS: Mapping[str, Check] = {
    "metrics": _metric_names,
    "tokenizer": _tokenizer,
    "smoothing": _truth,
    "stemmer": _truth,
    "aggregator": _truth,
    "batch_size": _batch_size,
    **_FIXED,
}
