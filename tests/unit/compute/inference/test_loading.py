"""Finding and loading a model in the folders that a worker is given."""

import json
import shutil
from pathlib import Path

import pytest

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.inference.loading import ModelFolders, find_model, load_model
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, add_adapter, save_adapter
from mafunzo.errors import InvalidFile, InvalidParameter


@pytest.fixture
def adapter_package(tiny_llama: Path, tmp_path: Path) -> Path:
    """An MLflow folder with an adapter, that says which weights it was trained on."""
    network = load_network(tiny_llama)
    config = AdapterConfig(r=2)
    add_adapter(network, config)
    package = tmp_path / "package"
    save_adapter(network, config, package / "data" / "adapter")
    load_tokenizer(tiny_llama).save_pretrained(package / "data" / "adapter")
    (package / "MLmodel").write_text("flavors: {}\n")
    (package / "mafunzo_model.json").write_text(
        json.dumps({"base": {"name": "tiny-llama", "weights_sha256": "a" * 64}})
    )
    return package


def test_a_plain_folder_is_its_own_model(tiny_llama: Path) -> None:
    assert find_model(tiny_llama) == ModelFolders(tiny_llama, tiny_llama)


def test_a_package_has_its_model_in_data(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "data" / "model")
    assert find_model(tmp_path) == ModelFolders(tmp_path / "data" / "model", tmp_path / "data" / "model")


def test_an_adapter_stands_on_its_base_which_may_be_a_package(
    adapter_package: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    adapter = adapter_package / "data" / "adapter"
    assert find_model(adapter_package, tiny_llama) == ModelFolders(tiny_llama, adapter, adapter)
    shutil.copytree(tiny_llama, tmp_path / "base" / "data" / "model")
    assert find_model(adapter_package, tmp_path / "base").network == tmp_path / "base" / "data" / "model"


def test_an_adapter_without_a_base_is_refused(adapter_package: Path) -> None:
    with pytest.raises(InvalidParameter, match="with --base"):
        find_model(adapter_package)


def test_another_base_than_the_one_it_was_trained_on_is_refused(
    adapter_package: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    (base / "mafunzo_model.json").write_text(json.dumps({"weights_sha256": "b" * 64}))
    with pytest.raises(InvalidParameter, match=r"hash bbbbbbbbbbbb\.\.\., but the adapter was trained on aaaaaaaaaaaa"):
        find_model(adapter_package, base)
    (base / "mafunzo_model.json").write_text(json.dumps({"weights_sha256": "a" * 64}))
    assert find_model(adapter_package, base).network == base


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="holds no model"):
        find_model(tmp_path)


def test_a_reply_stops_where_the_settings_the_tokenizer_or_the_template_say(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"eos_token": "<|end_of_text|>"})
    tokenizer.save_pretrained(folder)
    model = load_model(folder)
    model.engine.close()
    vocabulary = tokenizer.get_vocab()
    assert model.engine.stop_token_ids == {7, vocabulary["<|end_of_text|>"], vocabulary["<|eot_id|>"]}
