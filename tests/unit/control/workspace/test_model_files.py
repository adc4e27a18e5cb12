"""Tests of `mafunzo.control.workspace.model_files`: the layers of a network by the headers of its files."""

import json
from pathlib import Path

import pytest

from mafunzo.control.workspace.model_files import Layers, folder_faults, layers_of, template_fault
from mafunzo.entities.parameters.table import DEFAULTS
from mafunzo.entities.parameters.target_modules import TargetModules

CONFIG = {"model_type": "llama", "tie_word_embeddings": False}
TENSORS = {
    "model.embed_tokens.weight": 2,
    "model.layers.0.self_attn.q_proj.weight": 2,
    "model.layers.0.self_attn.q_proj.bias": 1,
    "model.layers.0.input_layernorm.weight": 1,
    "lm_head.weight": 2,
}


def network(folder: Path, config: object = CONFIG, tensors: dict[str, int] = TENSORS, size: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    entries = {
        name: {"dtype": "U8", "shape": [1] * dimensions, "data_offsets": [0, 1]} for name, dimensions in tensors.items()
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * size)
    return folder


def layers(folder: Path) -> Layers | None:
    return layers_of(folder / "config.json", [folder / "model.safetensors"])


def test_matrices_are_layers_but_for_tables_and_a_tied_head(tmp_path: Path) -> None:
    q_proj = "model.layers.0.self_attn.q_proj"
    assert layers(network(tmp_path)) == Layers("llama", (q_proj, "lm_head"))
    tied = {**CONFIG, "tie_word_embeddings": True}
    assert layers(network(tmp_path, tied)) == Layers("llama", (q_proj,))
    stored_once = {name: n for name, n in TENSORS.items() if "lm_head" not in name}
    assert layers(network(tmp_path, tensors=stored_once)) == Layers("llama", (q_proj,))


@pytest.mark.parametrize("config", [{**CONFIG, "quantization_config": {}, "x": 1}, [], {}])
def test_what_the_files_do_not_tell_is_not_guessed(tmp_path: Path, config: object) -> None:
    if isinstance(config, dict) and config:
        config["quantization_config"] = {"quant_method": "gptq"}
    assert layers(network(tmp_path, config)) is None


def test_targets_are_held_against_the_layers() -> None:
    tied = Layers("llama", tuple(f"model.layers.{i}.self_attn.{name}_proj" for i in (0, 1) for name in "qv"))
    for good in ("q_proj, model.layers.0.self_attn.v_proj", "all-linear", r"model\.layers\.1.*"):
        assert list(tied.faults("m", True, targets(lora_target_modules=good))) == []
    told = list(tied.faults("m", True, targets(lora_target_modules="q_proj,lm_head,w1")))
    assert sorted(fault.split("'")[1] for fault in told) == ["lm_head", "w1"]
    (told,) = tied.faults("m", True, targets(lora_target_modules=r".*\.k_proj"))
    assert "which matches the whole name of no linear layer for m. They are model.layers.N.self_attn.q_proj" in told
    (told,) = tied.faults("m", True, targets(layers_to_transform="7"))
    assert told == "layers_to_transform has 7, expected 0 to 1 for m."
    assert list(Layers("gpt2", ("c_attn",)).faults("m", False, targets())) == []


def targets(**values: str) -> TargetModules:
    return TargetModules.of(DEFAULTS | values)


def test_files_that_are_missing_or_cut_off_are_named(tmp_path: Path) -> None:
    assert folder_faults(network(tmp_path / "whole")) == []
    (cut := network(tmp_path / "cut", size=0) / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}'
    )
    assert folder_faults(cut.parent) == [
        f"{cut.parent}/model-00002.safetensors is missing. Fetch the model again.",
        f"{cut.parent}/model.safetensors is cut off or damaged. Fetch the model again.",
    ]
    for content in (b"", b"\xff" * 40, b"\2\0\0\0\0\0\0\0[]"):
        (tmp_path / "whole" / "model.safetensors").write_bytes(content)
        assert len(folder_faults(tmp_path / "whole")) == 1
    (tmp_path / "whole" / "config.json").write_text("{")
    assert "isn't a JSON object" in folder_faults(tmp_path / "whole")[0]
    (tmp_path / "adapter").mkdir()
    assert folder_faults(tmp_path / "adapter") == []


def test_a_folder_without_tokenizer_or_template_cannot_render_conversations(tmp_path: Path) -> None:
    assert template_fault(tmp_path) == ""  # no network: an adapter, say
    folder = network(tmp_path)
    assert "has no tokenizer" in template_fault(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    assert "has no chat template: it is a base model" in template_fault(folder)
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert template_fault(folder) == ""
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").touch()
    assert template_fault(folder) == ""


def test_a_mixture_is_told_that_its_experts_get_no_adapter(tmp_path: Path) -> None:
    experts = {**TENSORS, "model.layers.0.mlp.experts.0.gate_proj.weight": 2}
    mixture, dense = layers(network(tmp_path / "a", tensors=experts)), layers(network(tmp_path / "b"))
    assert mixture is not None and dense is not None
    assert "The experts of m get no adapter" in next(mixture.notes("m", True, targets()))
    quiet = [*mixture.notes("m", False, targets()), *dense.notes("m", True, targets())]
    assert [*mixture.notes("m", True, targets(lora_target_modules="q_proj")), *quiet] == []
