"""A tuned model's card: README.md for people, with the head that the Hugging Face hub reads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(frozen=True)
class CardFacts:
    """What the card tells.

    base: facts of the base model (`mafunzo_model.json`). report: prepare_data's report. data_sha256: file name to hash.
    configuration: the parameters that the training ran with. metrics: evaluate's metrics.json. pictures: file names.
    """

    name: str
    is_merged: bool
    is_adapter: bool
    licence: str
    weights_sha256: str
    base: Mapping[str, Any]
    report: Mapping[str, Any] = field(default_factory=dict)
    data_sha256: Mapping[str, str] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()


def render(facts: CardFacts) -> str:
    """Return README.md."""
    return "\n".join(
        [*_head(facts), *_introduction(facts), *_evaluation(facts), *_data(facts), *_training(facts), *_use(facts)]
    )


def _head(facts: CardFacts) -> Iterator[str]:
    body: dict[str, Any] = {"license": facts.licence or "other", "pipeline_tag": "text-generation"}
    repository = (facts.base.get("card") or {}).get("source", {}).get("repo")
    if repository:
        body["base_model"] = repository
    body["library_name"] = "peft" if facts.is_adapter else "transformers"
    body["tags"] = ["chat", "mafunzo", *(["lora"] if facts.is_adapter or facts.is_merged else [])]
    yield "---"
    yield yaml.safe_dump(body, sort_keys=False).strip()
    yield "---"


def _introduction(facts: CardFacts) -> Iterator[str]:
    base = facts.base
    weights = "All weights were tuned."
    if facts.is_merged:
        weights = "Its weights are the base's with a LoRA adapter added into them."
    if facts.is_adapter:
        weights = "It is a LoRA adapter: its base is needed to run it."
    yield f"\n# {facts.name}\n"
    yield f"A chat model, fine-tuned from {base.get('name')} {base.get('version') or ''} with Mafunzo. {weights}\n"
    yield "| | |"
    yield "|---|---|"
    yield f"| base | {base.get('name')} {base.get('version') or ''} (`{base.get('source')}`) |"
    if base.get("revision"):
        yield f"| base's revision | `{base['revision']}` |"
    yield f"| base's weights, SHA-256 | `{base.get('weights_sha256')}` |"
    yield f"| these weights, SHA-256 | `{facts.weights_sha256}` |"
    yield f"| licence | {facts.licence or 'unknown'}, as the base's: see LICENSE |"


def _evaluation(facts: CardFacts) -> Iterator[str]:
    comparisons = facts.metrics.get("comparisons") or {}
    if not comparisons:
        return
    yield "\n## Evaluation\n"
    yield "Base and tuned model on the same held-out rows; in brackets the 95% interval.\n"
    yield "| metric | rows | base | tuned | difference | better |"
    yield "|---|---|---|---|---|---|"
    for name, row in comparisons.items():
        is_better = row.get("is_better")
        verdict = "not shown" if is_better is None else "yes" if is_better else "no"
        cells = (_estimate(row.get(column)) for column in ("base", "tuned", "difference"))
        yield f"| {row.get('title') or name} | {row.get('rows', '')} | {' | '.join(cells)} | {verdict} |"
    forgetting = facts.metrics.get("forgetting")
    if isinstance(forgetting, Mapping) and forgetting.get("kl"):
        yield (
            f"\nOn {forgetting.get('prompts', 'the')} general prompts, the distribution moved by KL = "
            f"{_estimate(forgetting['kl'])} nats a token from the base's."
        )


def _estimate(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['value']:.4g} ({value['low']:.4g} to {value['high']:.4g})"
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _data(facts: CardFacts) -> Iterator[str]:
    splits = facts.report.get("splits") or {}
    if not splits:
        return
    yield "\n## Data\n"
    yield "| split | rows read | kept | dropped | tokens | of the assistant | SHA-256 |"
    yield "|---|---|---|---|---|---|---|"
    for name, split in splits.items():
        digest = facts.data_sha256.get(f"{name}.jsonl", "")
        numbers = (split.get("rows_read"), split.get("rows_kept"), len(split.get("dropped") or []))
        tokens = (split.get("tokens"), split.get("assistant_tokens"))
        yield f"| {name} | {' | '.join(_count(number) for number in numbers + tokens)} | `{digest}` |"


def _count(number: Any) -> str:
    return "" if number is None else f"{number:,}"


def _training(facts: CardFacts) -> Iterator[str]:
    if facts.configuration:
        yield "\n## Training\n"
        yield "| parameter | value |"
        yield "|---|---|"
        for name, value in facts.configuration.items():
            if not isinstance(value, Mapping | list) and value is not None:
                yield f"| {name} | {value} |"
    if facts.results:
        yield "\n| result | value |"
        yield "|---|---|"
        for name, value in facts.results.items():
            if isinstance(value, int | float | str):
                yield f"| {name} | {f'{value:.6g}' if isinstance(value, float) else value} |"
    for picture in facts.pictures:
        yield f"\n![{picture.rpartition('.')[0].replace('_', ' ')}]({picture})"


def _use(facts: CardFacts) -> Iterator[str]:
    yield "\n## Use\n"
    yield "```python"
    yield "import mlflow\n"
    if facts.is_adapter:
        yield 'model = mlflow.pyfunc.load_model("FOLDER", model_config={"base": "FOLDER OF THE BASE"})'
    else:
        yield 'model = mlflow.pyfunc.load_model("FOLDER")'
    yield 'print(model.predict({"messages": [{"role": "user", "content": "Hello!"}]}))'
    yield "```\n"
    if facts.is_adapter:
        yield "`data/adapter` is an adapter folder of `peft`: `PeftModel.from_pretrained(base, 'FOLDER/data/adapter')`."
    else:
        yield "`data/model` is a plain Hugging Face folder: `AutoModelForCausalLM.from_pretrained('FOLDER/data/model')`."
    yield ""
