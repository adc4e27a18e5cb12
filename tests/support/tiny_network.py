"""Tiny random networks of each architecture, in fp32: made in milliseconds, the same at every run."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": {"model_type": "llama"},
    "phi3": {"model_type": "phi3", "sliding_window": 24},
    "phi3 without a window": {"model_type": "phi3", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen2 with windows": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3"},
    "gemma": {"model_type": "gemma"},
    "gemma2": {"model_type": "gemma2", "sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3": {
        "model_type": "gemma3_text",
        "sliding_window": 16,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "mistral": {"model_type": "mistral", "sliding_window": 24},
    "granite": {"model_type": "granite"},
    "olmo2": {"model_type": "olmo2"},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
}


def make_network(architecture: str, **more: object) -> PreTrainedModel:
    """Build a network whose greedy continuations vary from token to token."""
    given = dict(ARCHITECTURES[architecture])
    config = AutoConfig.for_model(str(given.pop("model_type")), **(SIZES | given | more))
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation=None)
    return network.float().eval()
