"""The card tells what is known of a tuned model, and leaves out what isn't."""

from typing import Any

import pytest
import yaml

from mafunzo.compute.components.model_card import render

ESTIMATE = {"value": 2.5, "low": 2.25, "high": 2.75}
BASE = {
    "name": "tiny",
    "version": "1",
    "source": "hub:org/tiny",
    "weights_sha256": "ab",
    "card": {"source": {"repo": "org/tiny"}},
}
NOTHING: dict[str, Any] = {key: {} for key in ("report", "data_sha256", "configuration", "results", "metrics")}


def card(**changes: Any) -> str:
    facts = {
        "name": "greeter",
        "kind": "merged",
        "licence": "mit",
        "weights_sha256": "ff",
        "base": BASE,
        "pictures": (),
    }
    return render(**{**facts, **NOTHING, **changes})


@pytest.mark.parametrize(
    ("kind", "library", "tags", "words"),
    [
        pytest.param("full", "transformers", ["chat", "mafunzo"], "All weights were tuned.", id="full"),
        pytest.param("merged", "transformers", ["chat", "mafunzo", "lora"], "added into them", id="merged"),
        pytest.param("adapter", "peft", ["chat", "mafunzo", "lora"], "its base is needed", id="adapter"),
    ],
)
def test_the_head_is_what_the_hub_reads(kind: str, library: str, tags: list[str], words: str) -> None:
    _, head, text = card(kind=kind).split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "mit",
        "pipeline_tag": "text-generation",
        "base_model": "org/tiny",
        "library_name": library,
        "tags": tags,
    }
    assert words in text and ("FOLDER OF THE BASE" in text) == (kind == "adapter")


def test_what_is_not_known_has_no_section() -> None:
    text = card(licence="", base={"name": "mine", "source": "folder:mine"})
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# greeter", "## Use"]
    assert "license: other" in text and "| licence | unknown," in text and "revision" not in text


def test_every_section_is_a_table() -> None:
    row = {"title": "Loss", "rows": 9, "base": ESTIMATE, "tuned": 2.0, "difference": None, "is_better": True}
    text = card(
        base=BASE | {"revision": "c0ffee"},
        report={"splits": {"train": {"rows_read": 1234, "dropped": [{}], "tokens": 100000}}},
        data_sha256={"train.jsonl": "dd"},
        configuration={"seed": 7, "layers": ["a"], "base": {}, "nothing": None, "optim": "adamw"},
        results={"loss": 1.23456789, "steps": 5, "history": []},
        metrics={"comparisons": {"loss": row}, "forgetting": {"kl": ESTIMATE, "prompts": 12}},
        pictures=("evaluation-loss_by_row.png",),
    )
    for line in (
        "| base's revision | `c0ffee` |",
        "| Loss | 9 | 2.5 (2.25 to 2.75) | 2 |  | yes |",
        "On 12 general prompts, the distribution moved by KL = 2.5 (2.25 to 2.75) nats a token from the base's.",
        "| train | 1,234 |  | 1 | 100,000 |  | `dd` |",
        "| seed | 7 |",
        "| loss | 1.23457 |",
        "![evaluation-loss by row](evaluation-loss_by_row.png)",
    ):
        assert line in text.splitlines()
    assert not any(name in text for name in ("layers", "nothing", "history"))
