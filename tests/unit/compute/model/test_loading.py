import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from mafunzo.compute.model.loading import check_folder, load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter
from mafunzo.compute.model.lora_layer import LoraLinear
from mafunzo.errors import InvalidFile, UnsafeModel

CONFIG = LlamaConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
IDS = torch.tensor([[1, 5, 9, 13, 17, 21, 60, 2]])


@pytest.fixture
def base(tmp_path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "base"
    AutoModelForCausalLM.from_config(CONFIG).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tmp_path, base) -> Path:
    network = load_network(base)
    config = AdapterConfig(r=4, alpha=8)
    add_adapter(network, config)
    for _, layer in adapters(network):
        layer.lora_B.data.normal_(std=0.1)
    save_adapter(network, config, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_folder_loads_as_transformers_loads_it(base):
    network = load_network(base)
    assert not network.training
    torch.testing.assert_close(network(IDS).logits, AutoModelForCausalLM.from_pretrained(base)(IDS).logits)


def test_the_dtype_is_the_stored_one_unless_asked(base):
    assert load_network(base).dtype == torch.float32
    assert load_network(base, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_an_adapter_is_applied_or_merged_with_equal_answers(base, adapter):
    adapted_network = load_network(base, adapter)
    merged_network = load_network(base, adapter, merge=True)
    assert any(isinstance(module, LoraLinear) for module in adapted_network.modules())
    assert not any(isinstance(module, LoraLinear) for module in merged_network.modules())
    with torch.no_grad():
        torch.testing.assert_close(adapted_network(IDS).logits, merged_network(IDS).logits, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(adapted_network(IDS).logits, load_network(base)(IDS).logits, atol=1e-3)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_refused_with_the_reason(base, name):
    (base / "model.safetensors").rename(base / name)
    with pytest.raises(UnsafeModel, match=rf"{name}, not in safetensors\. Loading such a file can run any code"):
        load_network(base)


def test_a_pickle_beside_safetensors_is_not_opened(base):
    (base / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_network(base)


def test_code_in_the_folder_is_refused_unless_asked(base):
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoModelForCausalLM": "modeling.Homemade"}}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsafeModel, match="trust_remote_code true"):
        load_network(base)
    assert check_folder(base, trust_remote_code=True)["model_type"] == "homemade"


def test_code_in_the_folder_of_a_known_architecture_is_not_run(base):
    config = json.loads((base / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "modeling.Homemade"}}
    (base / "config.json").write_text(json.dumps(config))
    (base / "modeling.py").write_text("raise SystemExit('this ran')")
    load_network(base)


def test_missing_weights_are_refused_by_name(base):
    weights = load_file(base / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidFile, match="start at random") as excinfo:
        load_network(base)
    assert excinfo.value.faults == ("model.layers.1.mlp.up_proj.weight",)


def test_weights_of_another_shape_are_refused(base):
    config = json.loads((base / "config.json").read_text()) | {"vocab_size": 64}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidFile, match="can't load this llama model"):
        load_network(base)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        pytest.param(lambda f: (f / "config.json").unlink(), "no config.json", id="no configuration"),
        pytest.param(lambda f: (f / "model.safetensors").unlink(), "no \\*.safetensors weights", id="no weights"),
        pytest.param(lambda f: (f / "config.json").write_text("{"), "isn't JSON", id="broken configuration"),
        pytest.param(lambda f: (f / "config.json").write_text('{"model_type": "nope"}'), "'nope'", id="unknown"),
        pytest.param(lambda f: (f / "model.safetensors").write_bytes(b"short"), "can't load", id="cut-off weights"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(base, spoil, text):
    spoil(base)
    with pytest.raises(InvalidFile, match=text):
        load_network(base)


def test_an_adapter_alone_asks_for_its_base(adapter):
    with pytest.raises(InvalidFile, match="without its base"):
        load_network(adapter)
