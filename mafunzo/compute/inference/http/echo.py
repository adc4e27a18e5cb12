"""The prompt of a text completion: its token ids, and the text and offsets with which it is echoed."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from mafunzo.compute.inference.detokenizer import TokenOffsets
from mafunzo.protocol.completions import Prompt


@dataclass(frozen=True)
class Echo:
    """A prompt as its answer repeats it. offsets: where in the text each token begins, in characters."""

    text: str
    offsets: tuple[int, ...]


def prompt_ids(tokenizer: Any, prompt: Prompt) -> tuple[int, ...]:
    """Return a prompt as token ids, with what the tokenizer puts in front of a text (BOS)."""
    return tuple(tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else prompt


def echo(tokenizer: Any, prompt: Prompt) -> Echo:
    """Return the text of a prompt, without the BOS that the tokenizer puts in front of one."""
    if isinstance(prompt, str):
        spans = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        ends = [0, *accumulate((end for _, end in spans), max)]
        return Echo(prompt, tuple(min(start, end) for (start, _), end in zip(spans, ends, strict=False)))
    prefix = _prefix_length(tokenizer, prompt)
    text = str(tokenizer.decode(prompt[prefix:], skip_special_tokens=False))
    offsets = TokenOffsets(tokenizer, skip_special_tokens=False).add(prompt[prefix:], len(text))
    return Echo(text, (*[0] * prefix, *offsets))


def _prefix_length(tokenizer: Any, token_ids: tuple[int, ...]) -> int:
    """Return how many of the first ids are those that the tokenizer puts in front of any text."""
    prefix = tokenizer("")["input_ids"]
    is_there = prefix and list(token_ids[: len(prefix)]) == prefix and prefix[0] == tokenizer.bos_token_id
    return 1 if is_there else 0
