"""A tuned model's card: README.md for people, from `model_card.jinja`, with the head that the Hugging Face hub reads."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import yaml


def render(
    *,
    name: str,
    kind: str,
    licence: str,
    weights_sha256: str,
    base: Mapping[str, Any],
    report: Mapping[str, Any],
    data_sha256: Mapping[str, str],
    configuration: Mapping[str, Any],
    results: Mapping[str, Any],
    metrics: Mapping[str, Any],
    pictures: tuple[str, ...],
) -> str:
    """Return README.md.

    kind: full, merged or adapter. base: facts of the base model (`mafunzo_model.json`). report: prepare_data's report.
    data_sha256: file name to hash. configuration: the parameters that the training ran with. metrics: evaluate's
    metrics.json. pictures: file names.
    """
    repository = (base.get("card") or {}).get("source", {}).get("repo")
    head = {
        "license": licence or "other",
        "pipeline_tag": "text-generation",
        **({"base_model": repository} if repository else {}),
        "library_name": "peft" if kind == "adapter" else "transformers",
        "tags": ["chat", "mafunzo", *(["lora"] if kind in ("adapter", "merged") else [])],
    }
    weights = {
        "full": "All weights were tuned.",
        "merged": "Its weights are the base's with a LoRA adapter added into them.",
        "adapter": "It is a LoRA adapter: its base is needed to run it.",
    }
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"estimate": _estimate, "count": lambda number: "" if number is None else f"{number:,}"}
    text = files("mafunzo.compute.components").joinpath("model_card.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        name=name,
        head=yaml.safe_dump(head, sort_keys=False).strip(),
        weights=weights[kind],
        is_adapter=kind == "adapter",
        licence=licence,
        weights_sha256=weights_sha256,
        base=base,
        report=report,
        data_sha256=data_sha256,
        configuration=configuration,
        results=results,
        metrics=metrics,
        pictures=pictures,
    )


def _estimate(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['value']:.4g} ({value['low']:.4g} to {value['high']:.4g})"
    return f"{value:.4g}" if isinstance(value, int | float) else ""
