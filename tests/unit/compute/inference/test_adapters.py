"""Several adapters in one batch: each row is answered as by a network with that adapter alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from mafunzo.compute.inference.adapters import AdapterLinear
from mafunzo.compute.inference.executor import Wanted
from mafunzo.compute.inference.executor_torch import TorchExecutor
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, load_adapter, save_adapter
from mafunzo.entities.parameters.target_modules import Modules, TargetModules
from mafunzo.errors import Conflict, InvalidFile, MafunzoError, NotSupported
from tests.support.row_runner import RowRunner
from tests.support.tiny_network import VOCABULARY, make_network

STEPS = 12
TARGETS = {"red": ("q_proj", "down_proj"), "blue": ()}


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in (7, 30, 1, 19, 12, 25)]


@pytest.fixture
def network() -> PreTrainedModel:
    return make_network("llama")


def save(network: PreTrainedModel, folder: Path, seed: int, *targets: str) -> Path:
    """Write an adapter whose factors are random, so that it changes what the network says."""
    chosen = TargetModules(Modules(targets))
    tuned, config = copy.deepcopy(network), AdapterConfig(r=2 + seed, alpha=8, targets=chosen)
    torch.manual_seed(seed)
    add_adapter(tuned, config)
    for _, layer in adapters(tuned):
        nn.init.normal_(layer.lora_B, std=0.2)
    save_adapter(tuned, config, folder)
    return folder


@pytest.fixture
def folders(network: PreTrainedModel, tmp_path: Path) -> dict[str, Path]:
    return {name: save(network, tmp_path / name, i, *targets) for i, (name, targets) in enumerate(TARGETS.items())}


def solo(network: PreTrainedModel, folder: Path | None, prompt: list[int]) -> list[int]:
    tuned = copy.deepcopy(network)
    if folder is not None:
        load_adapter(tuned, folder)
    ids = torch.tensor([prompt])
    output = tuned.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def runner(network: PreTrainedModel, folders: dict[str, Path], is_packed: bool = False) -> RowRunner:
    executor = TorchExecutor(copy.deepcopy(network), pack_weights=is_packed)
    for name, folder in folders.items():
        executor.load_adapter(name, folder)
    return RowRunner(executor)


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain weights", "packed weights"])
@pytest.mark.parametrize("chunk", [1000, 5])
def test_rows_of_base_and_adapters_interleaved_are_each_answered_as_alone(
    network: PreTrainedModel, folders: dict[str, Path], is_packed: bool, chunk: int
) -> None:
    names = [None, "red", "blue", "red", None, "blue"]
    expected = [
        solo(network, None if name is None else folders[name], prompt)
        for name, prompt in zip(names, prompts(), strict=True)
    ]
    rows = runner(network, folders, is_packed)
    rows.adapters = {id: name for id, name in enumerate(names) if name is not None}
    replies: list[list[int]] = [[] for _ in names]
    while any(len(reply) < STEPS for reply in replies):
        tokens = {}
        for id, reply in enumerate(replies):
            start = rows.lengths.get(id, 0)
            if len(reply) < STEPS:
                tokens[id] = reply[-1:] or prompts()[id][start : start + chunk]
        for id, row in rows.run(tokens).items():
            if rows.lengths[id] >= len(prompts()[id]):
                replies[id].append(int(row[-1].argmax()))
    assert replies == expected
    same = prompts()[1]
    answers = [solo(network, folder, same) for folder in (None, *folders.values())]
    assert len({tuple(answer) for answer in answers}) == 3, "each must answer otherwise to be worth comparing"


def test_rows_of_the_base_are_bit_for_bit_what_they_are_without_adapters(
    network: PreTrainedModel, folders: dict[str, Path]
) -> None:
    tokens = dict(enumerate(prompts()[:3]))
    plain = runner(network, {}).run(tokens, Wanted.ALL)
    mixed = runner(network, folders)
    mixed.adapters = {1: "red"}
    logits = mixed.run(tokens, Wanted.ALL)
    assert torch.equal(logits[0], plain[0]) and torch.equal(logits[2], plain[2])
    assert not torch.allclose(logits[1], plain[1], atol=1e-2)
    mixed.adapters = {}
    mixed.free(tokens)
    assert all(torch.equal(logits, plain[id]) for id, logits in mixed.run(tokens, Wanted.ALL).items())


def test_memory_grows_by_the_factors_alone(network: PreTrainedModel, folders: dict[str, Path]) -> None:
    executor = TorchExecutor(copy.deepcopy(network))
    weights = {id(weight): weight for weight in executor.network.parameters()}
    for name, folder in folders.items():
        executor.load_adapter(name, folder)
    assert {id(weight) for weight in executor.network.parameters()} == set(weights)
    layers = [module for module in executor.network.modules() if isinstance(module, AdapterLinear)]
    assert len(layers) == 3 * 7 and sum(len(layer.factors) for layer in layers) == 3 * 7 + 3 * 2
    assert executor.adapter_names == {"red", "blue"}


@pytest.mark.parametrize("is_packed", [False, True])
def test_what_cannot_be_served_beside_others_is_refused_and_changes_nothing(
    network: PreTrainedModel, folders: dict[str, Path], tmp_path: Path, is_packed: bool
) -> None:
    executor = TorchExecutor(copy.deepcopy(network), pack_weights=is_packed)
    executor.load_adapter("red", folders["red"])
    wide = make_network("llama", hidden_size=64, head_dim=16)
    cases: list[tuple[str, Path, type[MafunzoError], str]] = [
        ("red", folders["blue"], Conflict, "There is an adapter 'red' already"),
        ("head", save(network, tmp_path / "head", 3, "lm_head"), NotSupported, "lm_head is the output head"),
        ("wide", save(wide, tmp_path / "wide", 4, "q_proj"), InvalidFile, "doesn't fit LlamaForCausalLM"),
        ("none", tmp_path, InvalidFile, "isn't an adapter folder"),
    ]
    for name, folder, error, text in cases:
        with pytest.raises(error, match=text):
            executor.load_adapter(name, folder)
    assert executor.adapter_names == {"red"}


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_network_with_an_adapter_of_its_own_answers_with_it_where_a_row_names_none(
    network: Any, folders: dict[str, Path], is_packed: bool
) -> None:
    tuned = copy.deepcopy(network)
    load_adapter(tuned, folders["red"])
    rows = runner(tuned, {"blue": folders["blue"]}, is_packed)
    rows.adapters = {1: "blue"}
    tokens = dict(enumerate(prompts()[:2]))
    logits = rows.run(tokens, Wanted.ALL)
    for id, name in enumerate(("red", "blue")):
        alone = runner(network, folders, is_packed)
        alone.adapters = {id: name}
        assert torch.allclose(logits[id], alone.run({id: tokens[id]}, Wanted.ALL)[id], atol=1e-4)


def test_an_adapter_of_the_head_that_a_network_has_lets_no_other_beside_it(
    network: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    load_adapter(network, save(network, tmp_path / "head", 3, "lm_head"))
    with pytest.raises(NotSupported, match="own adapter is one of the output head"):
        TorchExecutor(network).load_adapter("blue", folders["blue"])


def test_an_adapter_that_was_removed_leaves_its_name_and_no_factors(
    network: PreTrainedModel, folders: dict[str, Path]
) -> None:
    executor = TorchExecutor(network)
    for name, folder in folders.items():
        executor.load_adapter(name, folder)
    executor.remove_adapter("red")
    layers = [module for module in executor.network.modules() if isinstance(module, AdapterLinear)]
    assert {name for layer in layers for name in layer.factors} == executor.adapter_names == {"blue"}
    executor.load_adapter("red", folders["red"])


@pytest.mark.parametrize("is_packed", [False, True])
def test_an_adapter_with_magnitudes_is_served_as_trained_beside_others_and_as_the_network_s_own(
    tmp_path: Path, is_packed: bool
) -> None:
    """The network has biases, which magnitudes don't scale."""
    network: Any = make_network("qwen2")
    for name, weight in network.named_parameters():
        if name.endswith("_proj.bias"):
            nn.init.normal_(weight, std=0.5)
    tuned, config = copy.deepcopy(network), AdapterConfig(r=3, alpha=8, use_dora=True)
    add_adapter(tuned, config)
    for _, layer in adapters(tuned):
        nn.init.normal_(layer.lora_B, std=0.2)
        assert layer.lora_magnitude is not None
        layer.lora_magnitude.data *= torch.linspace(0.8, 1.2, len(layer.lora_magnitude))
    save_adapter(tuned, config, tmp_path / "dora")
    tokens, blue = dict(enumerate(prompts()[:2])), save(network, tmp_path / "blue", 1)
    with torch.no_grad():
        expected = tuned(torch.tensor([tokens[0]])).logits[0]
        assert not torch.allclose(network(torch.tensor([tokens[0]])).logits[0], expected, atol=1e-1)
    beside = runner(network, {"blue": blue, "dora": tmp_path / "dora"}, is_packed)
    beside.adapters = {0: "dora", 1: "blue"}
    own = runner(tuned, {}, is_packed)
    own_beside = runner(tuned, {"blue": blue}, is_packed)
    own_beside.adapters = {1: "blue"}
    for rows in (beside, own, own_beside):
        assert torch.allclose(rows.run(tokens, Wanted.ALL)[0], expected, atol=1e-4)
