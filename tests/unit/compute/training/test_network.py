import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BioGptConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    PhiConfig,
)

from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter
from mafunzo.compute.training import attention, network
from mafunzo.compute.training.batch import Batch, pack
from mafunzo.compute.training.network import prepare
from mafunzo.compute.training.objectives.supervised import Supervised
from tests.support.tiny_training import CONFIGS, SIZES, random_rows, tiny

GPT2_SIZES = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": None}


@pytest.fixture(autouse=True)
def registered():
    attention.register()


def as_batch(rows) -> Batch:
    return pack([((np.array(ids, np.int32), np.array(labels, np.int32)),) for ids, labels in rows])


def batch_loss(packed, batch):
    result = Supervised().loss(packed, batch)
    return result.loss_sum, result.counts["correct"]


def by_transformers(model, rows):
    """Loss and gradients, one row after the other, by the network's own forward and all its logits."""
    total = torch.zeros(())
    for ids, labels in rows:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].float()
        total = total + torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(labels[1:]), reduction="sum")
    total.backward()
    return total.detach(), gradients(model)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("is_lora", [True, False], ids=["LoRA", "full"])
@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_packed_row_gives_what_its_sequences_give_alone(family, is_lora):
    rows = random_rows(6)
    alone = tiny(family)
    packed = tiny(family, attention=attention.PACKED)
    runner = prepare(packed)
    assert runner.packs and runner.head is not None
    for model in (alone, packed):
        if is_lora:
            torch.manual_seed(5)
            add_adapter(model, AdapterConfig(r=4, alpha=8))
            for _, layer in adapters(model):
                layer.lora_B.data.normal_(std=0.1)
    expected, expected_gradients = by_transformers(alone, rows)
    loss, _ = batch_loss(runner, as_batch(rows))
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-4)
    mine = gradients(packed)
    assert set(mine) == set(expected_gradients)
    for name, theirs in expected_gradients.items():
        torch.testing.assert_close(mine[name], theirs, rtol=2e-3, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("family", list(CONFIGS))
def test_no_sequence_sees_its_neighbour(family):
    """Changing one sequence of a packed row changes no hidden state of another, not by a bit."""
    model = tiny(family, attention=attention.PACKED)
    first, second, other = (random_rows(1, seed=s, shortest=12, longest=12)[0] for s in (1, 2, 3))
    states = []
    for rows in ([first, second], [other, second], [first, other]):
        batch = as_batch(rows)
        given = network._inputs(batch, 0, 2, torch.device("cpu"), True)
        with torch.no_grad():
            states.append(model.base_model(**given).last_hidden_state[0])
    bound = batch.bounds[1]
    assert torch.equal(states[0][bound:], states[1][bound:])
    assert torch.equal(states[0][:bound], states[2][:bound])
    assert not torch.equal(states[0][:bound], states[1][:bound])


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            MambaConfig(vocab_size=67, hidden_size=32, num_hidden_layers=2, state_size=4), id="a state that runs on"
        ),
        pytest.param(
            GptOssConfig(**SIZES, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=4), id="sinks"
        ),
        pytest.param(LlamaConfig(**SIZES, attention_dropout=0.1), id="dropout of attention weights"),
    ],
)
def test_an_architecture_that_cannot_share_a_row_runs_row_by_row(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    runner = prepare(model)
    assert not runner.packs
    rows = random_rows(3)
    torch.manual_seed(0)
    expected, _ = by_transformers(AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval(), rows)
    loss, _ = batch_loss(runner, as_batch(rows))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(GPT2Config(**GPT2_SIZES), id="attn_pdrop of GPT-2"),
        pytest.param(GPTBigCodeConfig(**GPT2_SIZES), id="attn_pdrop of StarCoder"),
        pytest.param(BioGptConfig(**SIZES), id="attention_probs_dropout_prob of BioGPT"),
        pytest.param(LlamaConfig(**SIZES, attention_dropout=0.1), id="attention_dropout of Llama"),
    ],
)
def test_an_architecture_that_drops_attention_weights_is_trained_row_by_row(config, caplog):
    """Whatever its configuration calls the dropout, which shows in training mode only."""
    caplog.set_level("INFO")
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.PACKED).eval()
    random_state = torch.get_rng_state()
    runner = prepare(model)
    assert torch.equal(torch.get_rng_state(), random_state) and not model.training
    assert not runner.packs and "drops attention weights" in caplog.text
    model.train()
    loss, _ = batch_loss(runner, as_batch(random_rows(3)))
    loss.backward()
    assert loss.isfinite() and gradients(model)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(GraniteConfig(**SIZES, logits_scaling=4.0), id="logits divided"),
        pytest.param(PhiConfig(**SIZES), id="a head with a bias"),
    ],
)
def test_a_head_of_another_kind_gives_its_own_loss(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    rows = random_rows(3)
    expected, _ = by_transformers(model, rows)
    model.set_attn_implementation(attention.PACKED)
    loss, _ = batch_loss(prepare(model), as_batch(rows))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-4)


def test_a_head_that_is_not_understood_is_left_to_the_network():
    """A network that changes its logits in a way of its own gets them from its own forward."""
    model = tiny("llama", attention=attention.PACKED)
    own = model.lm_head.forward
    model.lm_head.forward = lambda x: own(x) * 1.5
    runner = prepare(model)
    assert runner.head is None and runner.packs
    rows = random_rows(3)
    expected, _ = by_transformers(model, rows)
    loss, _ = batch_loss(runner, as_batch(rows))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-4)


def test_positions_that_depend_on_the_longest_sequence_keep_long_ones_apart():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 16,
    }
    CONFIGS["longrope"] = config = type(CONFIGS["phi3"])(
        **SIZES, rope_parameters=rope, max_position_embeddings=64, original_max_position_embeddings=16
    )
    try:
        rows = [random_rows(1, seed=s, shortest=n, longest=n)[0] for s, n in ((1, 8), (2, 30))]
        expected, _ = by_transformers(tiny("longrope"), rows)
        runner = prepare(tiny("longrope", attention=attention.PACKED))
        assert runner.longest_packed == 16
        loss, _ = batch_loss(runner, as_batch(rows))
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-4)
    finally:
        assert CONFIGS.pop("longrope") is config
