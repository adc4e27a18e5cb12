# ruff: noqa: RUF001 - DeepSeek writes its tokens with a full-width line
"""Tokenizers with the chat templates that the catalogue's families ship, small enough to be made in each test; which card
of the catalogue has which template; and one conversation's ids and labels in one call.

Every byte is a token and so is each of the family's own tokens, so that a wrong mask shows at its exact character. The
templates come from TRL's package, which keeps them as the models ship them; those that it hasn't are written out below.
"""

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mafunzo.compute.chat.examples import Encoder, Unusable
from mafunzo.compute.components.tiny_model import RECIPES
from mafunzo.entities.conversation import Conversation
from mafunzo.errors import InvalidData

TRL = importlib.util.find_spec("trl")  # found, not imported: importing it takes a second
assert TRL is not None and TRL.origin is not None
TEMPLATES = Path(TRL.origin).parent / "chat_templates"
SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
PHI3_MEDIUM = """{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}"""
PHI4 = """{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
PHI4_MINI = """{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

_PHI = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"]
_LLAMA = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
_GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
_QWEN = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "</tool_call>", "<think>", "</think>"]
Family = tuple[str | None, str | None, str, list[str]]


def _recipe(name: str) -> Family:
    recipe = RECIPES[name]
    return recipe.chat_template, recipe.bos, recipe.eos, list(recipe.special_tokens)


# family: (template, or None for TRL's of that name; bos; eos; tokens)
FAMILIES: dict[str, Family] = {
    "phi3": (None, "<s>", "<|endoftext|>", ["<s>", *_PHI]),
    "phi3_5": (None, "<s>", "<|endoftext|>", ["<s>", *_PHI]),
    "phi3_medium": (PHI3_MEDIUM, "<s>", "<|endoftext|>", ["<s>", *_PHI]),
    "phi4": (PHI4, "<|endoftext|>", "<|im_end|>", ["<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"]),
    "phi4_mini": (PHI4_MINI, "<|endoftext|>", "<|endoftext|>", [*_PHI, "<|tool|>", "<|/tool|>"]),
    "llama3": (None, "<|begin_of_text|>", "<|eot_id|>", _LLAMA),
    "llama3_2": (None, "<|begin_of_text|>", "<|eot_id|>", _LLAMA),
    "gemma": (None, "<bos>", "<eos>", _GEMMA),
    "gemma3": (None, "<bos>", "<eos>", _GEMMA),
    "qwen2_5": (None, None, "<|im_end|>", _QWEN),
    "qwen3": (None, None, "<|im_end|>", _QWEN),
    "smollm2": (SMOLLM2, "<|im_start|>", "<|im_end|>", ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]),
    "tiny_llama": _recipe("tiny-llama"),
    "tiny_phi3": _recipe("tiny-phi3"),
    "mistral": (MISTRAL, "<s>", "</s>", ["<s>", "</s>", "[INST]", "[/INST]"]),
    "deepseek_r1_distill": (
        None,
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"],
    ),
}

# Names of the catalogue's cards, all sizes of one template together -> the family whose template they ship.
FAMILY_OF = {
    r"Llama-3\.2-[\d.]+B-Instruct": "llama3_2",
    r"Phi-3-mini-\d+k-instruct": "phi3",
    r"Phi-3-medium-\d+k-instruct": "phi3_medium",
    r"Phi-3\.5-mini-instruct": "phi3_5",
    r"Phi-4": "phi4",
    r"Phi-4-mini-instruct": "phi4_mini",
    r"Qwen2\.5-[\d.]+B-Instruct": "qwen2_5",
    r"Qwen3-[\d.]+B": "qwen3",
    r"SmolLM2-[\d.]+[MB]-Instruct": "smollm2",
    r"gemma-2-[\d.]+b-it": "gemma",
    r"gemma-3-[\d.]+b-it": "gemma3",
    r"tiny-llama": "tiny_llama",
    r"tiny-phi3": "tiny_phi3",
}


def family_of(card: str) -> str:
    """Return the family of a card by its name; fails for one whose template isn't here."""
    found = [family for pattern, family in FAMILY_OF.items() if re.fullmatch(pattern, card)]
    assert len(found) == 1, f"Add the chat template of {card} to FAMILIES, and its name to FAMILY_OF"
    return found[0]


@cache
def family(name: str, trims: bool = True) -> Any:
    """Return the family's tokenizer. Phi's own tokens swallow the white space after them, as its real ones do.

    `trims`: its offsets leave white space out, as GPT-2's do.
    """
    template, bos, eos, tokens = FAMILIES[name]
    source = template or (TEMPLATES / f"{name}.jinja").read_text()
    return make_tokenizer(source, bos, eos, tokens, swallows=name.startswith("phi3"), trims=trims, name=name)


def make_tokenizer(
    template: str,
    bos: str | None,
    eos: str,
    tokens: list[str],
    swallows: bool = False,
    trims: bool = True,
    name: str = "made",
) -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.post_processor = processors.ByteLevel(trim_offsets=trims)
    bytes_only.add_special_tokens([AddedToken(t, special=True, normalized=False, rstrip=swallows) for t in tokens])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    tokenizer.name_or_path = name
    return tokenizer


def training_template(name: str) -> str:
    """Return TRL's version of a family's template, with `{% generation %}` around what the assistant writes."""
    return (TEMPLATES / f"{name}_training.jinja").read_text()


@cache
def encoder(tokenizer: Any) -> Encoder:
    """Return the encoder of a tokenizer, made once."""
    return Encoder(tokenizer)


def encode_with_labels(tokenizer: Any, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Return the token ids of a conversation and its labels; raises `InvalidData` where it gives no example."""
    example = encoder(tokenizer).encode([conversation], None)[0]
    if isinstance(example, Unusable):
        raise InvalidData(example.reason)
    return example.input_ids, example.labels
