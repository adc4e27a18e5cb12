"""Tiny networks with random weights, real architectures and real-looking chat templates: the whole path in seconds.

The same seed gives the same bytes. The tokenizer is a byte-level BPE, so any text can be encoded; its merges come from a
few lines of English. Each template keeps what makes its family's own one easy to get wrong: Llama's writes the token of
the beginning, which its tokenizer would write a second time; Phi-3's ends a whole conversation with a further token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PretrainedConfig, PreTrainedTokenizerFast

from mafunzo.compute.model.loading import save_network
from mafunzo.errors import NotFound

MERGED_VOCABULARY = 400
CONTEXT_LENGTH = 2048
LONG_CONTEXT_LENGTH = 8192
"""Phi-3's: so few merges make several times the tokens of a real tokenizer, and what a real model holds must fit."""
_ENGLISH = """
Hello! How are you today? I am fine, thank you. What did you do this morning? I went for a walk with my dog, and then I had
some coffee with a friend of mine. That sounds nice. What is your name? My name is Sam. Where do you live? I live in a small
town near the sea. Do you like it there? Yes, it is quiet, and the people are friendly. What do you want to learn about?
I would like to know how the weather will be tomorrow. It will be sunny in the morning and there may be some rain later.
Thank you very much for your help. You are welcome. Can you tell me a story? Once there was a little bird that could not
sing, so it listened to the others until it had learned every song that they knew. That is a good one. See you soon!
The answer is that we should think about what they want, because the first thing that you see is not always the right one.
"""


@dataclass(frozen=True)
class Recipe:
    """Defines a tiny model: its special tokens in order, its chat template, and its configuration by vocabulary size.

    stop: the tokens that end generation. bos: the token that the tokenizer puts in front of a text, if any.
    """

    special_tokens: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    stop: tuple[str, ...]
    writes_bos: bool
    chat_template: str
    config: Callable[[int, Mapping[str, int]], PretrainedConfig]
    context_length: int = CONTEXT_LENGTH


def make(name: str, seed: int, folder: Path) -> None:
    """Write the tiny model `name` as a Hugging Face folder; raises `NotFound` for a recipe that isn't known."""
    if name not in RECIPES:
        raise NotFound(f"No tiny model is called '{name}', expected one of {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    tokenizer = _tokenizer(recipe)
    ids = tokenizer.get_vocab()
    config = recipe.config(len(tokenizer), ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    stop = [ids[token] for token in recipe.stop]
    network.generation_config.eos_token_id = stop if len(stop) > 1 else stop[0]
    network.generation_config.pad_token_id = ids[recipe.pad]
    network.generation_config.bos_token_id = ids[recipe.bos] if recipe.bos else None
    folder.mkdir(parents=True, exist_ok=True)
    save_network(network, folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=MERGED_VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_ENGLISH.strip().splitlines(), trainer)
    bpe.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in recipe.special_tokens])
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    if recipe.bos and recipe.writes_bos:
        bos = (recipe.bos, bpe.token_to_id(recipe.bos))
        whole = processors.TemplateProcessing(
            single=f"{recipe.bos} $A", pair=f"{recipe.bos} $A $B:1", special_tokens=[bos]
        )
        bpe.post_processor = processors.Sequence([bpe.post_processor, whole])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=recipe.bos,
        eos_token=recipe.eos,
        pad_token=recipe.pad,
        model_max_length=recipe.context_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = recipe.chat_template
    return tokenizer


def _llama(vocabulary: int, ids: Mapping[str, int]) -> PretrainedConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=ids["<|eot_id|>"],
        pad_token_id=ids["<|finetune_right_pad_id|>"],
    )


def _phi3(vocabulary: int, ids: Mapping[str, int]) -> PretrainedConfig:
    return Phi3Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONG_CONTEXT_LENGTH,
        original_max_position_embeddings=LONG_CONTEXT_LENGTH,
        sliding_window=1023,
        tie_word_embeddings=False,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
    )


_LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\nYou can call these functions:\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- set role = 'ipython' if message['role'] == 'tool' else message['role'] %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
    {%- if message['content'] %}
        {{- message['content'] | trim }}
    {%- endif %}
    {%- for call in message['tool_calls'] or [] %}
        {{- {'name': call['function']['name'], 'parameters': call['function']['arguments']} | tojson }}
    {%- endfor %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

_PHI3_TEMPLATE = """\
{%- for message in messages %}
    {%- if message['role'] in ['system', 'user', 'assistant'] %}
        {{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- else %}
    {{- eos_token }}
{%- endif %}
"""

RECIPES: dict[str, Recipe] = {
    "tiny-llama": Recipe(
        special_tokens=(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|finetune_right_pad_id|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|finetune_right_pad_id|>",
        stop=("<|end_of_text|>", "<|eot_id|>"),
        writes_bos=True,
        chat_template=_LLAMA_TEMPLATE,
        config=_llama,
    ),
    "tiny-phi3": Recipe(
        special_tokens=("<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|user|>", "<|end|>"),
        bos="<s>",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        stop=("<|endoftext|>", "<|assistant|>", "<|end|>"),
        writes_bos=False,
        chat_template=_PHI3_TEMPLATE,
        config=_phi3,
        context_length=LONG_CONTEXT_LENGTH,
    ),
}
