"""What an evaluation leaves behind: `evaluationResult/metrics.json`, `samples.jsonl`, pictures and `report.html`."""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from mafunzo.evaluation.compare import CONFIDENCE, RESAMPLES, Comparison, Estimate
from mafunzo.evaluation.picture import pictures
from mafunzo.evaluation.result import Evaluation

FEW_ROWS = 20
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
    text = json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"
    (folder / "evaluationResult" / "metrics.json").write_text(text, encoding="utf-8")
    lines = (json.dumps(body, ensure_ascii=False) + "\n" for body in sample_bodies(evaluation))
    (folder / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    made = pictures(evaluation)
    for name, png in made.items():
        (folder / name).write_bytes(png)
    (folder / "report.html").write_text(report_html(evaluation, made), encoding="utf-8")


def metrics_body(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of `metrics.json`: the tuned model's values by name at the top, as Azure ML writes them, then
    both models' with intervals in `comparisons`, `forgetting`, and what was measured on what."""
    body: dict[str, Any] = {name: found.tuned.value for name, found in evaluation.comparisons.items()}
    body["comparisons"] = {name: found.as_dict() for name, found in evaluation.comparisons.items()}
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
    found: dict[str, float] = {}
    for name, comparison in evaluation.comparisons.items():
        found |= {
            f"base_{name}": comparison.base.value,
            f"tuned_{name}": comparison.tuned.value,
            f"{name}_difference": comparison.difference.value,
            f"{name}_difference_low": comparison.difference.low,
            f"{name}_difference_high": comparison.difference.high,
        }
        found["eval_loss" if name == "loss" else name] = comparison.tuned.value
    if evaluation.forgetting is not None:
        found["kl"] = evaluation.forgetting.kl.value
        found["same_top_token"] = evaluation.forgetting.same_top_token.value
    return found


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
    """Return the comparison that the verdict speaks of: loss where it was measured, else the first one."""
    return evaluation.comparisons.get("loss") or next(iter(evaluation.comparisons.values()))


def verdict(evaluation: Evaluation) -> str:
    """Return in one sentence whether the tuned model got better."""
    found = decisive(evaluation)
    name = _label(found) if _label(found).isupper() else _label(found).lower()
    change = f"{name} went from {_number(found.base.value)} to {_number(found.tuned.value)}"
    bounds = f"{_signed_value(found.difference.low)} to {_signed_value(found.difference.high)}"
    if found.is_better is None:
        return f"No difference is shown on the held-out rows: {change} (95% interval of the difference, {bounds}, holds zero)."
    word = "better" if found.is_better else "worse"
    return f"The tuned model is {word} on the held-out rows: {change} (95% interval of the difference: {bounds})."


def warnings(evaluation: Evaluation) -> list[str]:
    """Return what a reader should know before trusting the numbers."""
    told = []
    rows = {comparison.rows for comparison in evaluation.comparisons.values()}
    if rows and min(rows) < FEW_ROWS:
        told.append(f"Only {min(rows)} rows: bootstrap intervals of so few are too narrow. Hold out more.")
    skipped = evaluation.facts.get("data", {}).get("unusable_prompts", 0)
    if skipped:
        told.append(
            f"{skipped} prompts leave no room for a reply in the model's context and were left out of the replies."
        )
    return told


def table_text(evaluation: Evaluation) -> str:
    """Return the comparison as a table for a terminal."""
    head = ("", "base", "tuned", "difference (95% interval)", "")
    rows = [
        (
            found.title,
            _number(found.base.value),
            _number(found.tuned.value),
            _signed(found.difference),
            {True: "better", False: "worse", None: "not shown"}[found.is_better],
        )
        for found in evaluation.comparisons.values()
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    found_kl = evaluation.forgetting
    if found_kl is not None:
        lines.append(
            f"Forgetting on {found_kl.prompts} general prompts: KL(base || tuned) {_with_bounds(found_kl.kl)} nats a token; "
            f"the same most probable token at {100 * found_kl.same_top_token.value:.1f}% of {found_kl.positions} positions"
        )
    return "\n".join([*lines, verdict(evaluation), *warnings(evaluation)])


def report_html(evaluation: Evaluation, made: Mapping[str, bytes]) -> str:
    """Return the report as one self-contained page; whatever the models wrote is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "bounds": _bounds, "signed": _signed_value, "label": _label}
    template = environment.from_string(files("mafunzo.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    return template.render(
        verdict=verdict(evaluation),
        tone={True: "better", False: "worse", None: "unknown"}[decisive(evaluation).is_better],
        warnings=warnings(evaluation),
        comparisons=list(evaluation.comparisons.values()),
        forgetting=evaluation.forgetting,
        kl_meaning=KL_MEANING,
        pictures={name: base64.b64encode(png).decode("ascii") for name, png in made.items()},
        samples=evaluation.samples[:SHOWN_SAMPLES],
        sample_count=len(evaluation.samples),
        shown_turns=SHOWN_TURNS,
        facts=_flat(evaluation.facts),
        model=evaluation.facts.get("base", {}).get("name", ""),
        rows=len(evaluation.base_loss_by_row),
        resamples=RESAMPLES,
    )


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}: ")
        else:
            shown = ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
            rows.append((name, shown))
    return rows


def _label(found: Comparison) -> str:
    return found.title.split(" (")[0]


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _signed_value(value: float) -> str:
    return f"{value:+.2f}" if abs(value) >= 10 else f"{value:+.3f}"


def _bounds(estimate: Estimate) -> str:
    return f"{_number(estimate.low)} to {_number(estimate.high)}"


def _with_bounds(estimate: Estimate) -> str:
    return f"{_number(estimate.value)} ({_bounds(estimate)})"


def _signed(estimate: Estimate) -> str:
    return f"{_signed_value(estimate.value)} ({_signed_value(estimate.low)} to {_signed_value(estimate.high)})"
