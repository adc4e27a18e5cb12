"""The loader that goes with a packaged model: which conversations, parameters and bases it takes, without a network."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from mafunzo.compute.components import mlflow_loader
from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.model import folder as model_folder

HELLO = [{"role": "user", "content": "Hello!"}]
TOOLS = [{"type": "function", "function": {"name": "now"}}]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param({"messages": HELLO}, [(HELLO, None, {})], id="a row"),
        pytest.param([{"messages": HELLO, "tools": TOOLS}], [(HELLO, TOOLS, {})], id="a row with tools"),
        pytest.param(HELLO, [(HELLO, None, {})], id="bare messages"),
        pytest.param(
            pd.DataFrame({"messages": [HELLO, None], "tools": [None, TOOLS]}), [(HELLO, None, {})], id="a DataFrame"
        ),
        pytest.param(
            {"input_data": {"input_string": [HELLO, HELLO], "parameters": {"seed": 1}}},
            [(HELLO, None, {"seed": 1})] * 2,
            id="Azure ML's body",
        ),
        pytest.param(["Hello", {"other": 1}], [], id="no conversation"),
        pytest.param("Hello", [], id="a text"),
    ],
)
def test_conversations_come_in_every_shape(data: Any, expected: list[Any]) -> None:
    assert list(mlflow_loader._conversations(data)) == expected


def test_parameters_have_openai_s_and_llama_s_names_too() -> None:
    assert mlflow_loader._checked({"max_tokens": 5, "top_p": None}) == {"max_new_tokens": 5}
    with pytest.raises(ValueError, match="n, temprature: not a parameter, expected some of max_new_tokens"):
        mlflow_loader._checked({"temprature": 1, "n": 2})


def test_the_arguments_of_a_call_become_an_object() -> None:
    call = {"id": "1", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    assert mlflow_loader._template_call(call)["function"]["arguments"] == {"zone": "UTC"}
    for empty in ({}, *({"arguments": value} for value in ("", "null", None, float("nan"), "{}", []))):
        assert mlflow_loader._template_call({"function": empty})["function"]["arguments"] == {}


def test_it_hashes_weights_as_the_steps_do(tmp_path: Path) -> None:
    for name in ("model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"):
        save_file({"w": torch.ones(2)}, tmp_path / name)
    assert mlflow_loader.weights_sha256(tmp_path) == model_folder.weights_sha256(tmp_path)


def test_the_base_of_an_adapter_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("tiny-llama", 0, tmp_path / "base")
    facts = {"name": "tiny", "version": "1", "source": "made:tiny", "weights_sha256": "0" * 64}
    (tmp_path / "mafunzo_model.json").write_text(json.dumps({"base": facts}))
    with pytest.raises(ValueError, match=r"its base is tiny 1 \(made:tiny\)"):
        mlflow_loader._base(tmp_path, {})
    monkeypatch.setenv("MAFUNZO_BASE_MODEL", str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"empty has no config\.json"):
        mlflow_loader._base(tmp_path, {})
    with pytest.raises(ValueError, match="the adapter was trained on tiny 1"):
        mlflow_loader._base(tmp_path, {"base": str(tmp_path / "base")})
    facts["weights_sha256"] = model_folder.weights_sha256(tmp_path / "base")
    (tmp_path / "mafunzo_model.json").write_text(json.dumps({"base": facts}))
    assert mlflow_loader._base(tmp_path, {"base": str(tmp_path / "base")}) == tmp_path / "base"


@pytest.mark.parametrize(
    ("value", "is_set"), [(None, False), (float("nan"), False), (0, True), ("", True), (1.5, True)]
)
def test_what_a_table_leaves_empty_is_not_set(value: Any, is_set: bool) -> None:
    assert mlflow_loader._is_set(value) is is_set
