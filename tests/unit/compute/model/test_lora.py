import copy
import json
import math

import peft
import pytest
import torch
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
)

from mafunzo.compute.components.tiny_model import RECIPES
from mafunzo.compute.model.lora import (
    AdapterConfig,
    adapters,
    add_adapter,
    is_at_start,
    load_adapter,
    merge_adapter,
    save_adapter,
    target_names,
)
from mafunzo.compute.model.lora_layer import LoraLinear
from mafunzo.control.store.catalog import model_cards
from mafunzo.entities.model_card import MadeSource
from mafunzo.entities.parameters.table import DEFAULTS
from mafunzo.entities.parameters.target_modules import Modules, TargetModules
from mafunzo.errors import InvalidFile, InvalidParameter, NotSupported, UnsafeModel

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "phi3": Phi3Config(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "gemma2": Gemma2Config(**SIZES, head_dim=8),
}
IDS = torch.tensor([[1, 5, 9, 13, 17, 21, 60, 2]])


def tiny(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(CONFIGS[family]).eval()


def named(*names: str) -> TargetModules:
    return TargetModules(Modules(names))


def tuned(family: str = "llama", **config: object) -> tuple[PreTrainedModel, AdapterConfig]:
    """A tiny network with an adapter that changes its answers."""
    network = tiny(family)
    adapter = AdapterConfig(r=4, alpha=16, **config)
    add_adapter(network, adapter)
    generator = torch.Generator().manual_seed(1)
    for _, layer in adapters(network):
        layer.lora_B.data = torch.randn(layer.lora_B.shape, generator=generator) * 0.1
    return network, adapter


@pytest.mark.parametrize("has_dropout", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_hand_written_gradient_is_autograd_s(has_dropout, has_bias):
    torch.manual_seed(0)
    base = nn.Linear(6, 5, bias=has_bias)
    layer = LoraLinear(base, r=3, scaling=2.0, dropout=0.5 if has_dropout else 0.0)
    layer.lora_B.data.normal_()
    x = torch.randn(2, 7, 6, requires_grad=True)
    dy = torch.randn(2, 7, 5)
    torch.manual_seed(3)
    layer(x).backward(dy)
    ours = [x.grad.clone(), layer.lora_A.grad.clone(), layer.lora_B.grad.clone()]
    x.grad = layer.lora_A.grad = layer.lora_B.grad = None
    torch.manual_seed(3)
    x_dropout = nn.functional.dropout(x, 0.5) if has_dropout else x
    (base(x) + 2.0 * x_dropout @ layer.lora_A.t() @ layer.lora_B.t()).backward(dy)
    for gradient, reference in zip(ours, [x.grad, layer.lora_A.grad, layer.lora_B.grad], strict=True):
        torch.testing.assert_close(gradient, reference)
    assert base.weight.grad is None


@pytest.mark.parametrize("family", list(CONFIGS))
def test_by_default_every_linear_layer_but_the_head_is_adapted(family):
    network = tiny(family)
    names = target_names(network)
    expected = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    assert names == expected
    assert len(names) == 2 * (4 if family == "phi3" else 7)


def test_only_the_adapter_trains():
    network, _ = tuned()
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)


def test_targets_are_named_by_their_last_part():
    assert target_names(tiny("phi3"), named("qkv_proj")) == [f"model.layers.{i}.self_attn.qkv_proj" for i in (0, 1)]


@pytest.mark.parametrize(
    ("values", "theirs"),
    [
        pytest.param({"lora_target_modules": "q_proj,mlp.up_proj"}, {"target_modules": ["q_proj", "mlp.up_proj"]}, id="names"),
        pytest.param({"lora_target_modules": r".*\.1\..*_proj"}, {"target_modules": r".*\.1\..*_proj"}, id="a pattern"),
        pytest.param(
            {"lora_target_modules": "q_proj,o_proj", "layers_to_transform": "1", "exclude_modules": r".*o_proj"},
            {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1], "exclude_modules": r".*o_proj"},
            id="layers, and a pattern left out",
        ),
        pytest.param(
            {"lora_target_modules": "down_proj", "layers_to_transform": "0", "layers_pattern": "layers"},
            {"target_modules": ["down_proj"], "layers_to_transform": [0], "layers_pattern": ["layers"]},
            id="layers of a list",
        ),
    ],
)  # fmt: skip
def test_the_layers_are_those_that_peft_takes(values, theirs):
    network, config = tiny(), peft.LoraConfig(**theirs)
    expected = [name for name, _ in network.named_modules() if check_target_module_exists(config, name)]
    assert expected and target_names(network, TargetModules.of(DEFAULTS | values)) == expected


def test_an_unknown_target_is_refused_with_those_that_exist():
    with pytest.raises(InvalidParameter, match="No adapter") as excinfo:
        target_names(tiny("phi3"), named("q_proj", "qkv_proj"))
    assert excinfo.value.faults == (
        "lora_target_modules has 'q_proj', expected some of down_proj, gate_up_proj, o_proj, qkv_proj.",
    )


def test_a_tied_head_is_not_adapted():
    network = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, tie_word_embeddings=True))
    with pytest.raises(InvalidParameter) as excinfo:
        target_names(network, named("lm_head"))
    assert "lm_head" in excinfo.value.faults[0]


@pytest.mark.parametrize("family", list(CONFIGS))
def test_peft_loads_our_file_and_gives_the_same_logits(family, tmp_path):
    network, config = tuned(family)
    save_adapter(network, config, tmp_path)
    peft_network = peft.PeftModel.from_pretrained(tiny(family), str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(IDS).logits, peft_network(IDS).logits, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(network(IDS).logits, tiny(family)(IDS).logits, atol=1e-3)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_we_load_peft_s_file_and_give_the_same_logits(family, tmp_path):
    lora = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules="all-linear", init_lora_weights=False, use_rslora=True, task_type="CAUSAL_LM"
    )
    torch.manual_seed(2)
    peft_network = peft.get_peft_model(tiny(family), lora).eval()
    peft_network.save_pretrained(str(tmp_path))
    network = tiny(family)
    config = load_adapter(network, tmp_path)
    assert math.isclose(config.scaling, 6 / math.sqrt(4))
    with torch.no_grad():
        torch.testing.assert_close(network(IDS).logits, peft_network(IDS).logits, rtol=1e-5, atol=1e-6)


def test_peft_s_patterns_of_rank_and_alpha_are_honoured(tmp_path):
    lora = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "up_proj"],
        rank_pattern={"up_proj": 2},
        alpha_pattern={"up_proj": 3},
        init_lora_weights=False,
    )
    torch.manual_seed(2)
    peft_network = peft.get_peft_model(tiny(), lora).eval()
    peft_network.save_pretrained(str(tmp_path))
    network = tiny()
    load_adapter(network, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(network(IDS).logits, peft_network(IDS).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_merging_changes_no_answer(family):
    network, _ = tuned(family)
    with torch.no_grad():
        before = network(IDS).logits
        assert len(list(adapters(network))) == len(target_names(tiny(family)))
        merge_adapter(network)
        torch.testing.assert_close(network(IDS).logits, before, rtol=1e-4, atol=1e-5)
    assert not list(adapters(network))


def test_in_bfloat16_the_adapter_stays_float32_and_merging_rounds_once():
    network = tiny().to(torch.bfloat16)
    add_adapter(network, AdapterConfig(r=4, alpha=16))
    for _, layer in adapters(network):
        layer.lora_B.data.normal_(std=0.1)
        assert layer.lora_A.dtype == torch.float32
    with torch.no_grad():
        before = network(IDS).logits.float()
        merge_adapter(network)
        after = network(IDS).logits.float()
    assert network(IDS).logits.dtype == torch.bfloat16
    torch.testing.assert_close(after, before, rtol=0.05, atol=0.03)


def test_a_variant_that_only_peft_computes_is_refused(tmp_path):
    lora = peft.LoraConfig(r=4, target_modules=["q_proj"], lora_bias=False, bias="lora_only")
    peft.get_peft_model(tiny(), lora).save_pretrained(str(tmp_path))
    with pytest.raises(NotSupported) as excinfo:
        load_adapter(tiny(), tmp_path)
    assert excinfo.value.faults == ("bias is 'lora_only'.",)
    body = json.loads((tmp_path / "adapter_config.json").read_text()) | {"alora_invocation_tokens": [1, 2]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(body))
    with pytest.raises(NotSupported) as excinfo:
        load_adapter(tiny(), tmp_path)
    assert excinfo.value.faults[1] == "alora_invocation_tokens is [1, 2]."


def test_an_adapter_that_peft_trained_beside_changed_weights_is_refused(tmp_path):
    lora = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa")
    peft.get_peft_model(tiny(), lora).save_pretrained(str(tmp_path))
    with pytest.raises(NotSupported) as excinfo:
        load_adapter(tiny(), tmp_path)
    assert (
        "init_lora_weights is 'pissa': it was trained beside other weights than the base's" in excinfo.value.faults[0]
    )


@pytest.mark.parametrize("start", [True, "gaussian", "pissa", "pissa_niter_4"])
def test_an_adapter_starts_as_peft_s_from_the_same_seed(start):
    targets = TargetModules(ranks={"q_proj": 2}, alphas={"up_proj": 3})
    config = AdapterConfig(r=4, alpha=6, targets=targets, use_rslora=True, start=str(start).lower())
    theirs, network = tiny(), tiny()
    torch.manual_seed(5)
    add_adapter(network, config)
    shape = {"r": 4, "lora_alpha": 6, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3}}
    torch.manual_seed(5)
    lora = peft.LoraConfig(**shape, use_rslora=True, init_lora_weights=start, target_modules="all-linear")
    expected = peft.get_peft_model(theirs, lora).state_dict()
    for name, layer in adapters(network):
        for part in ("A", "B"):
            factor = expected[f"base_model.model.{name}.lora_{part}.default.weight"]
            torch.testing.assert_close(getattr(layer, f"lora_{part}").data, factor, rtol=1e-5, atol=1e-6)
        left = expected[f"base_model.model.{name}.base_layer.weight"]
        start_factors = (
            layer.weight if layer.start_A is None else layer.weight - layer.scaling * layer.start_B @ layer.start_A
        )
        torch.testing.assert_close(start_factors, left, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("start", ["true", "gaussian", "pissa", "pissa_niter_4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_adapter_changes_nothing_however_it_starts(start, dtype):
    network = tiny().to(dtype)
    with torch.no_grad():
        before = network(IDS).logits
        add_adapter(network, AdapterConfig(r=4, alpha=16, start=start))
        torch.testing.assert_close(
            network(IDS).logits, before, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 2e-2
        )
    assert is_at_start(network)


def test_an_adapter_that_starts_from_the_weights_is_saved_as_a_plain_one_of_twice_the_rank(tmp_path):
    targets = TargetModules(ranks={"q_proj": 2}, alphas={"layers.1.mlp.up_proj": 3})
    config = AdapterConfig(r=4, alpha=6, targets=targets, use_rslora=True, start="pissa")
    add_adapter(network := tiny(), config)
    for _, layer in adapters(network):
        layer.lora_A.data += 0.1
        layer.lora_B.data -= 0.1
    assert not is_at_start(network)
    save_adapter(network, config, tmp_path)
    body = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (body["r"], body["rank_pattern"], body["init_lora_weights"]) == (8, {"q_proj": 4}, True)
    load_adapter(loaded := tiny(), tmp_path)
    with torch.no_grad():
        expected = network(IDS).logits
        assert not torch.allclose(expected, tiny()(IDS).logits, atol=1e-3)
        torch.testing.assert_close(loaded(IDS).logits, expected, rtol=1e-5, atol=1e-5)
        by_peft = peft.PeftModel.from_pretrained(tiny(), str(tmp_path)).eval()
        torch.testing.assert_close(by_peft(IDS).logits, expected, rtol=1e-5, atol=1e-5)
        merge_adapter(network)
        torch.testing.assert_close(network(IDS).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_adapter_with_magnitudes_is_peft_s_and_merges(family, tmp_path):
    """qwen2 has biases, which magnitudes don't scale."""

    def tiny(family: str) -> PreTrainedModel:
        network = AutoModelForCausalLM.from_config(CONFIGS[family]).eval()
        generator = torch.Generator().manual_seed(0)
        for weight in network.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
        return network

    config = AdapterConfig(r=4, alpha=6, use_dora=True, targets=TargetModules(ranks={"q_proj": 2}))
    add_adapter(network := tiny(family), config)
    with torch.no_grad():
        torch.testing.assert_close(network(IDS).logits, tiny(family)(IDS).logits, rtol=1e-5, atol=1e-5)
    assert is_at_start(network)
    for _, layer in adapters(network):
        layer.lora_B.data.normal_(std=0.1)
        layer.lora_magnitude.data *= torch.linspace(0.5, 1.5, len(layer.lora_magnitude))
    save_adapter(network, config, tmp_path)
    load_adapter(loaded := tiny(family), tmp_path)
    with torch.no_grad():
        expected = network(IDS).logits
        assert not torch.allclose(expected, tiny(family)(IDS).logits, atol=1e-2)
        torch.testing.assert_close(loaded(IDS).logits, expected, rtol=1e-6, atol=1e-6)
        by_peft = peft.PeftModel.from_pretrained(tiny(family), str(tmp_path)).eval()
        torch.testing.assert_close(by_peft(IDS).logits, expected, rtol=1e-4, atol=1e-5)
        merge_adapter(network)
        torch.testing.assert_close(network(IDS).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_gradients_with_magnitudes_are_those_of_peft(dropout):
    torch.manual_seed(0)
    base = nn.Linear(6, 5)
    layer = LoraLinear(base, r=3, scaling=2.0, dropout=dropout, has_magnitude=True)
    layer.lora_B.data.normal_()
    lora = peft.LoraConfig(r=3, lora_alpha=6, use_dora=True, lora_dropout=dropout, target_modules=["0"])
    theirs = peft.get_peft_model(nn.Sequential(copy.deepcopy(base)), lora).base_model.model[0]
    weights = theirs.lora_A.default.weight, theirs.lora_B.default.weight, theirs.lora_magnitude_vector.default.weight
    for weight, own in zip(weights, (layer.lora_A, layer.lora_B, layer.lora_magnitude), strict=True):
        weight.data.copy_(own.data)
    gradients = []
    for module, own in ((layer, (layer.lora_A, layer.lora_B, layer.lora_magnitude)), (theirs, weights)):
        x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        torch.manual_seed(3)
        y = module(x)
        gradients.append([y.detach(), *torch.autograd.grad((y * torch.arange(5.0)).sum(), [x, *own])])
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_another_network_is_refused_by_layer(tmp_path):
    network, config = tuned("phi3")
    save_adapter(network, config, tmp_path)
    with pytest.raises(InvalidFile, match="doesn't fit LlamaForCausalLM") as excinfo:
        load_adapter(tiny("llama"), tmp_path)
    assert "model.layers.0.self_attn.qkv_proj isn't a linear layer of the network." in excinfo.value.faults


def test_an_adapter_of_another_width_is_refused_with_both_shapes(tmp_path):
    network, config = tuned()
    save_adapter(network, config, tmp_path)
    wider = AutoModelForCausalLM.from_config(LlamaConfig(**(SIZES | {"hidden_size": 64})))
    with pytest.raises(InvalidFile) as excinfo:
        load_adapter(wider, tmp_path)
    assert any("has the shape (4, 32), expected (4, 64)." in fault for fault in excinfo.value.faults)


def test_pickled_adapter_weights_are_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UnsafeModel, match="pickle"):
        load_adapter(tiny(), tmp_path)


def test_an_empty_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    save_file({}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InvalidFile, match="doesn't fit"):
        load_adapter(tiny(), tmp_path)


def test_cut_off_adapter_weights_are_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(InvalidFile, match="can't be read"):
        load_adapter(tiny(), tmp_path)


@pytest.mark.parametrize(
    ("architecture", "kinds"),
    [
        pytest.param("mixtral", ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], id="Mixtral"),
        pytest.param("qwen3_moe", ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], id="Qwen3"),
        pytest.param("gpt_oss", ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], id="gpt-oss"),
        pytest.param("llama", [], id="no mixture"),
        pytest.param("phi3", [], id="no mixture, joined projections"),
    ],
)
def test_experts_that_no_adapter_reaches_are_said(architecture, kinds, caplog):
    config = AutoConfig.for_model(architecture, **SIZES, moe_intermediate_size=48, num_experts=4, num_local_experts=4)
    network = AutoModelForCausalLM.from_config(config)
    add_adapter(network, AdapterConfig(r=2))
    told = " ".join(record.getMessage() for record in caplog.records)
    assert [kind for kind in ("mlp.experts.gate_up_proj", "mlp.experts.down_proj") if kind in told] == kinds
    assert ("apply_lora false trains them" in told) is bool(kinds)
    if kinds:
        with pytest.raises(InvalidParameter, match="has 'gate_up_proj', whose weights are in one tensor"):
            target_names(AutoModelForCausalLM.from_config(config), named("gate_up_proj"))


@pytest.mark.parametrize("card", model_cards(), ids=lambda card: card.name)
def test_a_card_names_the_linear_layers_of_its_architecture(card):
    """They are what a job is checked against before its model is there."""
    head_dim = {"head_dim": 8} if card.architecture.startswith("gemma") else {}
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(card.architecture, **SIZES, **head_dim))
    as_small = card.model_copy(update={"num_hidden_layers": SIZES["num_hidden_layers"]})
    assert card.num_hidden_layers and set(as_small.linear_modules) - {"lm_head"} == set(target_names(network))
    if isinstance(card.source, MadeSource):
        config = RECIPES[card.source.recipe].config(61, dict.fromkeys(RECIPES[card.source.recipe].special_tokens, 0))
        assert ("lm_head" in card.linear_layers) is not config.tie_word_embeddings
        assert card.num_hidden_layers == config.num_hidden_layers
