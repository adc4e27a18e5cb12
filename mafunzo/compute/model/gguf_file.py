"""GGUF: a network and its tokenizer in one file, for llama.cpp and what is built on it.

Matrices keep the dtype of the network (bfloat16, float16 or float32), vectors become float32, as llama.cpp wants them. What it
names differently, the library `gguf` knows; what it computes differently is here:

    rotary embedding   llama.cpp turns neighbouring elements of a head of a Llama, transformers those half a head apart:
                       the rows of its query and key matrices are laid out anew
    tokenizer          a byte-level BPE, with how text is split before it (`tokenizer.ggml.pre`) told by a name

What has no exact form there is refused: other architectures, rotary embeddings that are scaled, tokenizers of other kinds.
Facts are those of llama.cpp's conversion and of `src/llama-vocab.cpp`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mafunzo.errors import Faults, NotSupported

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""GGUF's architecture of each of transformers'."""
PERMUTED = {"llama": ("self_attn.q_proj", "self_attn.k_proj")}
_BYTES = {"type": "ByteLevel", "use_regex": False}
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [{"type": "ByteLevel", "use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True}],
    "llama-bpe": [{"type": "Split", "pattern": {"Regex": _LLAMA_3}}, _BYTES],
    "qwen2": [{"type": "Split", "pattern": {"Regex": _LLAMA_3.replace("{1,3}", "")}}, _BYTES],
}
"""How text is split before the BPE, by llama.cpp's names, in the words of a tokenizer.json."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens."""
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_gguf(network: PreTrainedModel, tokenizer: Any, file: Path, name: str, licence: str = "") -> None:
    """Write a network and its tokenizer; raises `NotSupported` with all that has no exact form in GGUF, before it writes."""
    import gguf

    require_exact(network, tokenizer)
    architecture = ARCHITECTURES[network.config.model_type]
    writer = gguf.GGUFWriter(file, architecture, use_temp_file=True)
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    _add_shape(writer, network)
    _add_tokenizer(writer, tokenizer, network.get_input_embeddings().num_embeddings)
    names = gguf.get_tensor_name_map(
        next(key for key, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture),
        network.config.num_hidden_layers,
    )
    for key, tensor in _tensors(network):
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise NotSupported(f"The weight {key} has no name in GGUF's architecture '{architecture}'.")
        data = _laid_out(key, tensor, network)
        kind = gguf.GGMLQuantizationType[TYPES[tensor.dtype] if tensor.dim() > 1 else "F32"]
        writer.add_tensor(target, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def require_exact(network: PreTrainedModel, tokenizer: Any) -> None:
    """Raise `NotSupported` with all of a network and its tokenizer that GGUF has no exact form for."""
    config, faults = network.config, Faults()
    known = ", ".join(ARCHITECTURES)
    faults.add(
        ""
        if config.model_type in ARCHITECTURES
        else f"Its architecture is '{config.model_type}', expected one of {known}."
    )
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    faults.add("" if kind == "default" else f"Its rotary embedding is scaled ('{kind}').")
    faults.add("" if _window(config) is None else f"Its attention has a window of {_window(config)} tokens.")
    body = json.loads(tokenizer.backend_tokenizer.to_str())
    if body["model"]["type"] != "BPE" or body.get("normalizer") not in (None, {"type": "NFC"}):
        faults.add("Its tokenizer isn't a byte-level BPE.")
    elif split_name(tokenizer) is None:
        faults.add("Its tokenizer splits text in a way that llama.cpp has no name for.")
    if faults:
        raise NotSupported("The model can't be written as GGUF. Use --to merged instead.", list(faults))


def split_name(tokenizer: Any) -> str | None:
    """Return llama.cpp's name of how a tokenizer splits text before its BPE, if it has one."""
    splitter = json.loads(tokenizer.backend_tokenizer.to_str()).get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers") or [splitter]
    for name, expected in SPLITS.items():
        if len(steps) == len(expected) and all(
            one.items() <= step.items() for one, step in zip(expected, steps, strict=True)
        ):
            return name
    return None


def _window(config: Any) -> int | None:
    is_used = getattr(config, "use_sliding_window", True)
    return getattr(config, "sliding_window", None) if is_used else None


def _add_shape(writer: Any, network: PreTrainedModel) -> None:
    import gguf

    config: Any = network.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = getattr(config, "rope_parameters", None) or {}
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(network.get_input_embeddings().num_embeddings)
    kinds = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}
    writer.add_file_type(gguf.LlamaFileType[kinds[TYPES[network.dtype]]])


def _add_tokenizer(writer: Any, tokenizer: Any, rows: int) -> None:
    body = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["id"]: token for token in body["added_tokens"]}
    texts = {id: text for text, id in body["model"]["vocab"].items()} | {
        id: one["content"] for id, one in added.items()
    }
    kinds = {id: CONTROL if one["special"] else USER_DEFINED for id, one in added.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_name(tokenizer))
    writer.add_token_list([texts.get(id, f"[PAD{id}]") for id in range(rows)])
    writer.add_token_types([kinds.get(id, NORMAL if id in texts else UNUSED) for id in range(rows)])
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in body["model"]["merges"]]
    writer.add_token_merges(pairs)
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    for kind, id in ids.items():
        if id is not None:
            getattr(writer, f"add_{kind}_token_id")(id)
    without, with_special = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (False, True))
    writer.add_add_bos_token(len(with_special) > len(without) and with_special[0] == tokenizer.bos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(network: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights by name; a head that is the embedding's too isn't written a second time."""
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    is_tied = head is not None and head.weight is embedding.weight
    for name, tensor in network.state_dict().items():
        if not (is_tied and name.startswith("lm_head.")):
            yield name, tensor


def _laid_out(name: str, tensor: Tensor, network: PreTrainedModel) -> np.ndarray[Any, Any]:
    """Return a weight in float32, in llama.cpp's order of the elements of a head."""
    config: Any = network.config
    array = tensor.detach().to("cpu", torch.float32).contiguous()
    permuted = PERMUTED.get(ARCHITECTURES[config.model_type], ())
    if any(part in name for part in permuted):
        is_key = "k_proj" in name
        heads = (getattr(config, "num_key_value_heads", None) if is_key else None) or config.num_attention_heads
        array = array.view(heads, 2, array.shape[0] // heads // 2, -1).transpose(1, 2).reshape(tensor.shape)
    return np.ascontiguousarray(array.numpy())
