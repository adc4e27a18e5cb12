"""The files of an evaluation: `evaluationResult/metrics.json`, `samples.jsonl`, pictures and `report.html`."""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from mafunzo.compute.evaluation.compare import CONFIDENCE, RESAMPLES, Comparison, Estimate
from mafunzo.compute.evaluation.picture import pictures
from mafunzo.compute.evaluation.result import Evaluation
from mafunzo.entities.evaluation import LEAST_ROWS
from mafunzo.tracking.atomic_json import write_json

_TONES = {True: "better", False: "worse", None: "unknown"}
SHOWN_SAMPLES = 12
SHOWN_TURNS = 6
KL_MEANING = (
    "KL(base || tuned) of the next-token distributions over the whole vocabulary, after each prompt and after each of the "
    "first tokens of the base model's own greedy reply to it; 0 means unchanged."
)


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Write every file of the evaluation into `folder`."""
    (folder / "evaluationResult").mkdir(parents=True, exist_ok=True)
    metrics = metrics_body(evaluation)
    write_json(folder / "evaluationResult" / "metrics.json", metrics, indent=1, ensure_ascii=False)
    lines = (json.dumps(body, ensure_ascii=False) + "\n" for body in sample_bodies(evaluation))
    (folder / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    images = pictures(evaluation)
    for name, png in images.items():
        (folder / name).write_bytes(png)
    (folder / "report.html").write_text(report_html(evaluation, images), encoding="utf-8")


def metrics_body(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of `metrics.json`: the tuned model's values by name at the top, as Azure ML writes them, then
    both models' with confidence intervals in `comparisons`, `forgetting`, and the facts of the evaluation."""
    body: dict[str, Any] = {name: comparison.tuned.value for name, comparison in evaluation.comparisons.items()}
    body["comparisons"] = {name: comparison.as_dict() for name, comparison in evaluation.comparisons.items()}
    if evaluation.forgetting is not None:
        body["forgetting"] = asdict(evaluation.forgetting) | {"measured": KL_MEANING}
    if evaluation.rouge_by_row:
        body["rows"] = evaluation.rouge_by_row
    body["intervals"] = {
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "method": "paired bootstrap over rows, percentiles",
    }
    return body | {"verdict": verdict(evaluation), "warnings": warnings(evaluation)} | evaluation.facts


def logged_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return the numbers for the step's metrics: `base_loss`, `tuned_loss`, `loss_difference`, ..., `eval_loss`, `kl`."""
    values: dict[str, float] = {}
    for name, comparison in evaluation.comparisons.items():
        values |= {
            f"base_{name}": comparison.base.value,
            f"tuned_{name}": comparison.tuned.value,
            f"{name}_difference": comparison.difference.value,
            f"{name}_difference_low": comparison.difference.low,
            f"{name}_difference_high": comparison.difference.high,
        }
        values["eval_loss" if name == "loss" else name] = comparison.tuned.value
    if evaluation.forgetting is not None:
        values["kl"] = evaluation.forgetting.kl.value
        values["same_top_token"] = evaluation.forgetting.same_top_token.value
    return values


def sample_bodies(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the lines of `samples.jsonl`."""
    return [
        {
            "messages": sample.prompt.as_dict()["messages"],
            "reference": sample.reference,
            "base": sample.base,
            "tuned": sample.tuned,
            "file": sample.file,
            "row": sample.row,
        }
        for sample in evaluation.samples
    ]


def decisive(evaluation: Evaluation) -> Comparison:
    """Return the comparison that decides the verdict: loss if it was measured, else the first one."""
    return evaluation.comparisons.get("loss") or next(iter(evaluation.comparisons.values()))


def verdict(evaluation: Evaluation) -> str:
    """Return in one sentence whether the tuned model got better, or that too few rows were held out to tell."""
    comparison = decisive(evaluation)
    name = _label(comparison) if _label(comparison).isupper() else _label(comparison).lower()
    change = f"{name} went from {_number(comparison.base.value)} to {_number(comparison.tuned.value)}"
    if comparison.has_few_rows:
        rows = f"{comparison.rows} row{'s' if comparison.rows != 1 else ''}"
        return (
            f"No verdict: {change}, on {rows} only, and from {LEAST_ROWS} on an interval tells whether that is chance."
        )
    bounds = _bounds(comparison.difference, "+")
    if comparison.is_better is None:
        return f"No difference is shown on the held-out rows: {change} (95% interval of the difference, {bounds}, holds zero)."
    word = "better" if comparison.is_better else "worse"
    return f"The tuned model is {word} on the held-out rows: {change} (95% interval of the difference: {bounds})."


def warnings(evaluation: Evaluation) -> list[str]:
    """Return what a reader should know before trusting the numbers."""
    texts = []
    rows = {comparison.rows for comparison in evaluation.comparisons.values()}
    if rows and min(rows) < LEAST_ROWS:
        texts.append(f"Only {min(rows)} rows: bootstrap intervals of so few are too narrow. Hold out more.")
    unusable = evaluation.facts.get("data", {}).get("unusable_prompts", 0)
    if unusable:
        texts.append(
            f"{unusable} prompts leave no room for a reply in the model's context and were left out of the replies."
        )
    return texts


def table_text(evaluation: Evaluation) -> str:
    """Return the comparison as a table for a terminal."""
    head = ("", "base", "tuned", "difference (95% interval)", "")
    rows = [
        (
            comparison.title,
            _number(comparison.base.value),
            _number(comparison.tuned.value),
            _difference(comparison),
            _word(comparison),
        )
        for comparison in evaluation.comparisons.values()
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    forgetting = evaluation.forgetting
    if forgetting is not None:
        lines.append(
            f"Forgetting on {forgetting.prompts} general prompts: KL(base || tuned) {_with_bounds(forgetting.kl)} nats "
            f"a token; the same most probable token at {100 * forgetting.same_top_token.value:.1f}% of "
            f"{forgetting.positions} positions"
        )
    return "\n".join([*lines, verdict(evaluation), *warnings(evaluation)])


def report_html(evaluation: Evaluation, images: Mapping[str, bytes]) -> str:
    """Return the report as one self-contained page; whatever the models wrote is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "bounds": _bounds, "signed": partial(_number, sign="+"), "label": _label}
    template = environment.from_string(
        files("mafunzo.compute.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    )
    return template.render(
        verdict=verdict(evaluation),
        tone="unknown" if decisive(evaluation).has_few_rows else _TONES[decisive(evaluation).is_better],
        warnings=warnings(evaluation),
        comparisons=list(evaluation.comparisons.values()),
        forgetting=evaluation.forgetting,
        kl_meaning=KL_MEANING,
        pictures={name: base64.b64encode(png).decode("ascii") for name, png in images.items()},
        samples=evaluation.samples[:SHOWN_SAMPLES],
        sample_count=len(evaluation.samples),
        shown_turns=SHOWN_TURNS,
        facts=list(_flat(evaluation.facts)),
        model=evaluation.facts.get("base", {}).get("name", ""),
        rows=len(evaluation.base_loss_by_row),
        resamples=RESAMPLES,
    )


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _word(comparison: Comparison) -> str:
    if comparison.has_few_rows:
        return "too few rows"
    return {True: "better", False: "worse", None: "not shown"}[comparison.is_better]


def _difference(comparison: Comparison) -> str:
    """Return the difference with its interval, where that means something."""
    difference = comparison.difference
    return _number(difference.value, "+") if comparison.has_few_rows else _with_bounds(difference, "+")


def _label(comparison: Comparison) -> str:
    return comparison.title.split(" (")[0]


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}" if abs(value) >= 10 else f"{value:{sign}.3f}"


def _bounds(estimate: Estimate, sign: str = "") -> str:
    return f"{_number(estimate.low, sign)} to {_number(estimate.high, sign)}"


def _with_bounds(estimate: Estimate, sign: str = "") -> str:
    return f"{_number(estimate.value, sign)} ({_bounds(estimate, sign)})"
