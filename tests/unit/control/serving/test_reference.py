"""What a model's folder tells of how it was tuned and evaluated."""

import hashlib
import json
from pathlib import Path

import pytest

from mafunzo.control.serving.reference import (
    Reference,
    holds_chat_model,
    how_stored,
    missing_files,
    read_reference,
    wrong_base,
)
from mafunzo.control.store.manifest import StoredFile
from mafunzo.errors import InvalidFile


def test_a_folder_without_a_reference_has_none(tmp_path: Path) -> None:
    assert read_reference(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"config.json"}, True, id="Hugging Face"),
        pytest.param({"MLmodel", "data/model/config.json"}, True, id="MLflow"),
        pytest.param({"MLmodel", "data/adapter/adapter_config.json"}, True, id="an adapter"),
        pytest.param({"MLmodel", "model.pkl"}, False, id="sklearn"),
        pytest.param({"old/config.json"}, False, id="elsewhere"),
    ],
)
def test_a_chat_model_is_known_by_its_files(files: set[str], expected: bool) -> None:
    assert holds_chat_model(files) is expected


def test_a_broken_reference_is_refused_with_all_its_faults(tmp_path: Path) -> None:
    (tmp_path / "serving_reference.json").write_text('{"tolerance": "wide", "rows": [{"messages": []}]}')
    with pytest.raises(InvalidFile) as caught:
        read_reference(tmp_path)
    assert "isn't a serving reference" in caught.value.message
    assert any(fault.startswith("tolerance: ") for fault in caught.value.faults)
    assert any(fault.startswith("stop_token_ids: ") for fault in caught.value.faults)


def test_a_reference_without_rows_proves_nothing_and_is_refused(tmp_path: Path) -> None:
    (tmp_path / "serving_reference.json").write_text('{"tolerance": 0.1, "stop_token_ids": [2], "rows": []}')
    with pytest.raises(InvalidFile, match="has no rows"):
        read_reference(tmp_path)


def test_the_way_in_which_weights_are_stored_is_read_from_the_package(tmp_path: Path) -> None:
    assert how_stored(tmp_path) == "weights"
    (tmp_path / "mafunzo_model.json").write_text('{"kind": "merged"}')
    assert how_stored(tmp_path) == "merge"
    (tmp_path / "data" / "adapter").mkdir(parents=True)
    (tmp_path / "data" / "adapter" / "adapter_config.json").write_text("{}")
    assert how_stored(tmp_path) == "adapter"
    assert missing_files(tmp_path) == ("adapter: data/adapter/adapter_model.safetensors is missing from the package.",)


@pytest.mark.parametrize("place", ["", "data/model/"])
def test_an_adapter_s_base_is_known_by_the_hash_of_its_weights(tmp_path: Path, place: str) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    trained_on = hashlib.sha256(f"{'a' * 64}  model.safetensors\n".encode()).hexdigest()
    (tmp_path / "mafunzo_model.json").write_text(f'{{"base": {{"name": "tiny", "weights_sha256": "{trained_on}"}}}}')
    right = [StoredFile(f"{place}model.safetensors", "a" * 64, 1), StoredFile(f"{place}config.json", "b" * 64, 1)]
    assert wrong_base(tmp_path, right) == ()
    [fault] = wrong_base(tmp_path, [StoredFile(f"{place}model.safetensors", "c" * 64, 1)])
    assert fault.startswith(
        f"adapter: it was trained on tiny with weights {trained_on[:12]}, and would stand on another base"
    )


def test_greedy_ids_that_do_not_fit_their_tokens_are_refused(tmp_path: Path) -> None:
    row = {"messages": [], "token_ids": [1, 2], "prompt_token_ids": [1], "logprobs": [None, -1.0], "greedy_ids": [None]}
    body = {"tolerance": 0.1, "stop_token_ids": [2], "rows": [row]}
    (tmp_path / "serving_reference.json").write_text(json.dumps(body))
    with pytest.raises(InvalidFile) as caught:
        read_reference(tmp_path)
    assert "greedy_ids has 1 entries, expected one for each of 2 tokens" in caught.value.faults[0]


def test_a_worker_of_a_lower_precision_is_held_to_what_that_explains() -> None:
    bounds = {"tolerance": 0.01, "mean_tolerance": 0.001, "lower_precision_tolerances": {"bfloat16": [1.5, 0.15]}}
    reference = Reference.model_validate({**bounds, "stop_token_ids": [2], "rows": []})
    held = reference.held_to("bfloat16")
    assert (held.tolerance, held.mean_tolerance) == (1.5, 0.15)
    assert reference.held_to("float32") is reference and reference.held_to("") is reference
