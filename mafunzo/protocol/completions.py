"""Text completions, OpenAI's older API: prompts as text or token ids, and prompt log-probabilities.

With `echo`, `max_tokens: 0` and `logprobs` nothing is generated: the answer scores the prompt's tokens.
`logprobs.token_ids` is an addition: the ids of the entries in the other lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from mafunzo.protocol.chat import (
    BIASES,
    Heading,
    Options,
    TokenLogprob,
    Usage,
    answer_body,
    read_options,
    read_stream,
)
from mafunzo.protocol.field import Fields, Unsupported

DEFAULT_MAX_TOKENS = 16
MAX_LOGPROBS = 20

UNSUPPORTED: Unsupported = {
    **dict.fromkeys(("n", "best_of"), ((1,), "only one completion a prompt is supported.")),
    "suffix": ((), "inserting isn't supported."),
    **BIASES,
}

Prompt = str | tuple[int, ...]


@dataclass(frozen=True)
class CompletionRequest:
    """Prompts to continue, with one answer each. `is_echo` puts the prompt in front of the answer."""

    prompts: tuple[Prompt, ...]
    options: Options
    is_echo: bool = False
    is_stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True)
class Choice:
    """The answer to one prompt. `logprobs` is None if not requested; an entry is None for a prompt's first token."""

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    logprobs: tuple[TokenLogprob | None, ...] | None
    finish_reason: str | None


def completion_request_from_dict(body: object) -> CompletionRequest:
    """Validate and parse a request; raises `InvalidParameter` with all faults."""
    fields = Fields(body)
    prompts = _read_prompts(fields)
    max_tokens = fields.integer("max_tokens", 0)
    is_stream, include_usage = read_stream(fields)
    is_echo = fields.boolean("echo")
    options = read_options(
        fields,
        DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        fields.integer("logprobs", 0, MAX_LOGPROBS),
    )
    fields.ignore("model", "user")
    fields.refuse(UNSUPPORTED)
    if max_tokens == 0 and not is_echo:
        fields.fault("max_tokens", "max_tokens is 0, which needs echo: there would be nothing to answer.")
    if is_stream and (is_echo or len(prompts) > 1):
        fields.fault("stream", "stream can't be combined with echo or with several prompts.")
    fields.check()
    return CompletionRequest(prompts, options, is_echo, is_stream, include_usage)


def completion(heading: Heading, choices: Sequence[Choice], usage: Usage | None) -> dict[str, Any]:
    """Return a whole answer, or a chunk of a stream."""
    bodies = [_choice(index, choice) for index, choice in enumerate(choices)]
    return answer_body(heading, "text_completion", bodies, usage)


def _read_prompts(fields: Fields) -> tuple[Prompt, ...]:
    prompt = fields.raw("prompt")
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, list) and prompt:
        if all(_is_id(item) for item in prompt):
            return (tuple(prompt),)
        if all(isinstance(item, str) for item in prompt):
            return tuple(prompt)
        if all(isinstance(item, list) and item and all(_is_id(id) for id in item) for item in prompt):
            return tuple(tuple(item) for item in prompt)
    fields.fault("prompt", "prompt must be text, a list of token ids, or a list of either.")
    return ()


def _is_id(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    return {
        "index": index,
        "text": choice.text,
        "logprobs": None if choice.logprobs is None else _logprobs(choice, choice.logprobs),
        "finish_reason": choice.finish_reason,
    }


def _logprobs(choice: Choice, logprobs: Sequence[TokenLogprob | None]) -> dict[str, Any]:
    ends = list(accumulate(map(len, choice.tokens)))
    return {
        "tokens": list(choice.tokens),
        "token_ids": list(choice.token_ids),
        "token_logprobs": [None if entry is None else entry.logprob for entry in logprobs],
        "top_logprobs": [None if entry is None else _top(entry) for entry in logprobs],
        "text_offset": [0, *ends][: len(ends)],
    }


def _top(entry: TokenLogprob) -> dict[str, float]:
    """Return the most likely tokens, and the sampled one if it isn't among them."""
    return {top.token: top.logprob for top in entry.top} | {entry.token: entry.logprob}
