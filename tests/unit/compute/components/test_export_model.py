"""A model in other programs' forms: each is read by its readers' own loaders, and computes as the model does."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from mafunzo.compute.components import export_model
from mafunzo.compute.components.export_model import export
from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.model.gguf_file import CONTROL, NORMAL, UNUSED, write_gguf
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter
from mafunzo.errors import FailedError, NotSupported
from tests.support.tiny_training import CONFIGS, VOCABULARY

TALK = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Fine, it is 17:30."}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-llama"
    make("tiny-llama", 0, folder)
    (folder / "LICENSE").write_text("Apache")
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes what the base says, as package_model leaves it."""
    folder = tmp_path_factory.mktemp("tuned") / "data" / "adapter"
    network = load_network(base)
    config = AdapterConfig(r=4, alpha=8, dropout=0.0, base="tiny-llama:1")
    add_adapter(network, config)
    torch.manual_seed(0)
    with torch.no_grad():
        for _, layer in adapters(network):
            for parameter in layer.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.05)
    save_adapter(network, config, folder)
    for file in base.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_bytes((base / "chat_template.jinja").read_bytes())
    return folder.parents[1]


def bpe(splitter: Any, vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, and no merges."""
    words = {"</s>": 0} | {
        char: id for id, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())[: vocabulary - 1], 1)
    }
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def facts(file: Path) -> dict[str, Any]:
    """What a GGUF file says, by name."""
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def test_gguf_says_what_the_tokenizer_and_the_network_are(base: Path, tmp_path: Path) -> None:
    export(base, None, "gguf", "tiny", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["LICENSE", "tiny.gguf"]
    said = facts(tmp_path / "out" / "tiny.gguf")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    rows = len(said["tokenizer.ggml.tokens"])
    assert said["tokenizer.ggml.tokens"][: len(tokenizer)] == tokenizer.convert_ids_to_tokens(
        list(range(len(tokenizer)))
    )
    assert {said["tokenizer.ggml.token_type"][id] for id in tokenizer.all_special_ids} == {CONTROL}
    assert set(said["tokenizer.ggml.token_type"]) <= {NORMAL, CONTROL, UNUSED}
    assert said["tokenizer.chat_template"] == tokenizer.chat_template
    assert (said["general.name"], said["llama.vocab_size"]) == ("tiny", rows)
    assert said["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert said["tokenizer.ggml.add_bos_token"] == (tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)


@pytest.mark.parametrize("form", ["gguf", "merged", "adapter"])
def test_an_adapter_goes_along_in_every_form(base: Path, adapter: Path, tmp_path: Path, form: str) -> None:
    """What it writes is checked against the adapter on its base; against the base alone it must fail."""
    export(adapter, base, form, "tuned", tmp_path / "out")
    assert any((tmp_path / "out").iterdir())
    if form == "merged":
        ids = torch.tensor([[5, 9, 11, 3]])
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
        assert not torch.allclose(merged(ids).logits, load_network(base)(ids).logits, atol=1e-2)


def test_what_computes_otherwise_is_not_kept(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_model, "_read_again", lambda *_: load_network(base, dtype=torch.float32))
    with pytest.raises(FailedError, match=r"log-probabilities are up to .* apart, allowed are 0.001. Nothing was kept"):
        export(adapter, base, "merged", "tuned", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_an_adapter_has_no_adapter_to_export(base: Path, tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match=r"whole weights and no adapter. Use --to merged or gguf"):
        export(base, None, "adapter", "tiny", tmp_path / "out")


@pytest.mark.parametrize("family", ["llama", "llama tied", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weights_come_back_as_they_were(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    from transformers import GgufConfig

    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[family])
    if family == "qwen3":
        config.head_dim = 128  # what transformers' reader of GGUF takes for granted
    network = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    write_gguf(network, bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)), tmp_path / "x.gguf", "x")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="x.gguf", quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    ).eval()
    ids = torch.arange(3, 40)[None]
    assert torch.allclose(again(ids).logits, network.float()(ids).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("splitter", "name"),
    [
        pytest.param(pre_tokenizers.ByteLevel(add_prefix_space=False), "gpt-2", id="GPT-2's"),
        pytest.param(
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            ),
            "smollm",
            id="digits by themselves",
        ),
    ],
)
def test_how_text_is_split_has_llama_cpp_s_name(splitter: Any, name: str, tmp_path: Path) -> None:
    write_gguf(AutoModelForCausalLM.from_config(CONFIGS["llama"]), bpe(splitter), tmp_path / "x.gguf", "x")
    assert facts(tmp_path / "x.gguf")["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize(
    ("family", "splitter", "faults"),
    [
        pytest.param("gemma2", None, ["Its architecture is 'gemma2', expected one of llama"], id="an architecture"),
        pytest.param("mistral with a window", None, ["Its attention has a window of 5 tokens."], id="a window"),
        pytest.param("llama", pre_tokenizers.Whitespace(), ["splits text in a way that llama.cpp"], id="a tokenizer"),
        pytest.param(
            "phi3 with a window",
            pre_tokenizers.Whitespace(),
            ["Its architecture is 'phi3'", "a window of 4 tokens", "splits text in a way"],
            id="all at once",
        ),
    ],
)
def test_what_has_no_exact_form_is_refused_before_anything_is_written(
    family: str, splitter: Any, faults: list[str], tmp_path: Path
) -> None:
    network = AutoModelForCausalLM.from_config(CONFIGS[family])
    tokenizer = bpe(splitter or pre_tokenizers.ByteLevel(add_prefix_space=False))
    with pytest.raises(NotSupported, match=r"can't be written as GGUF. Use --to merged instead") as refusal:
        write_gguf(network, tokenizer, tmp_path / "x.gguf", "x")
    assert not list(tmp_path.iterdir())
    for fault in faults:
        assert any(fault in one for one in refusal.value.faults), refusal.value.faults


def test_a_rotary_embedding_that_is_scaled_is_refused(tmp_path: Path) -> None:
    config = CONFIGS["llama"].__class__(
        **{
            **CONFIGS["llama"].to_dict(),
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0},
        }
    )
    with pytest.raises(NotSupported) as refusal:
        write_gguf(AutoModelForCausalLM.from_config(config), bpe(pre_tokenizers.ByteLevel()), tmp_path / "x.gguf", "x")
    assert list(refusal.value.faults) == ["Its rotary embedding is scaled ('linear')."]
