"""Text completions, OpenAI's older API: prompts as text or token ids, and prompt log-probabilities.

With `echo`, `max_tokens: 0` and `logprobs` nothing is generated: the answer scores the prompt's tokens.
`logprobs.token_ids` is an addition: the ids of the entries in the other lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mafunzo.protocol.chat import (
    Heading,
    Options,
    TokenLogprob,
    Usage,
    answer_body,
    read_n,
    read_options,
    read_stream,
)
from mafunzo.protocol.field import Fields, Unsupported

DEFAULT_MAX_TOKENS = 16
MAX_LOGPROBS = 20
TOKEN_ID = "token_id:"
"""What stands before a token's id where log-probabilities name tokens by ids (`return_tokens_as_token_ids`), as vLLM does."""

UNSUPPORTED: Unsupported = {
    "suffix": ((), "inserting isn't supported."),
}

Prompt = str | tuple[int, ...]


@dataclass(frozen=True)
class CompletionRequest:
    """Prompts to continue, with `n` answers each. `is_echo` puts the prompt in front of the answer.

    names_tokens_by_id: in log-probabilities a token is `token_id:N`, not its text, which several may share.
    """

    prompts: tuple[Prompt, ...]
    options: Options
    is_echo: bool = False
    is_stream: bool = False
    include_usage: bool = False
    n: int = 1
    names_tokens_by_id: bool = False


@dataclass(frozen=True)
class Choice:
    """The answer to one prompt. `logprobs` is None if not requested; an entry is None for a prompt's first token.

    offsets: where in the text each token begins, in characters (of the whole text, also in a chunk of a stream).
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    logprobs: tuple[TokenLogprob | None, ...] | None
    finish_reason: str | None
    offsets: tuple[int, ...] = ()
    index: int = 0


def completion_request_from_dict(body: object) -> CompletionRequest:
    """Validate and parse a request; raises `InvalidParameter` with all faults."""
    fields = Fields(body)
    prompts = _read_prompts(fields)
    max_tokens = fields.integer("max_tokens", 0)
    is_stream, include_usage = read_stream(fields)
    is_echo = fields.boolean("echo")
    names_tokens_by_id = fields.boolean("return_tokens_as_token_ids")
    options = read_options(
        fields,
        DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        fields.integer("logprobs", 0, MAX_LOGPROBS),
    )
    n, best_of = read_n(fields), fields.integer("best_of", 1)
    fields.ignore("model", "user")
    fields.refuse(UNSUPPORTED)
    if best_of not in (None, n):
        fields.fault("best_of", f"best_of is {best_of}, expected {n} (as n is): answers aren't ranked.")
    if max_tokens == 0 and not is_echo:
        fields.fault("max_tokens", "max_tokens is 0, which needs echo: there would be nothing to answer.")
    if is_stream and is_echo:
        fields.fault("stream", "stream can't be combined with echo.")
    if names_tokens_by_id and options.logprobs is None:
        fields.fault(
            "return_tokens_as_token_ids",
            "return_tokens_as_token_ids needs logprobs: it says how their tokens are named.",
        )
    fields.check()
    return CompletionRequest(prompts, options, is_echo, is_stream, include_usage, n, names_tokens_by_id)


def completion(
    heading: Heading, choices: Sequence[Choice], usage: Usage | None, has_usage: bool = False
) -> dict[str, Any]:
    """Return a whole answer, or a chunk of a stream (see `answer_body`)."""
    return answer_body(heading, "text_completion", [_choice(choice) for choice in choices], usage, has_usage)


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


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": None if choice.logprobs is None else _logprobs(choice, choice.logprobs),
        "finish_reason": choice.finish_reason,
    }


def _logprobs(choice: Choice, logprobs: Sequence[TokenLogprob | None]) -> dict[str, Any]:
    return {
        "tokens": list(choice.tokens),
        "token_ids": list(choice.token_ids),
        "token_logprobs": [None if entry is None else entry.logprob for entry in logprobs],
        "top_logprobs": [None if entry is None else _top(entry) for entry in logprobs],
        "text_offset": list(choice.offsets),
    }


def _top(entry: TokenLogprob) -> dict[str, float]:
    """Return the most likely tokens, and the sampled one if it isn't among them."""
    return {top.token: top.logprob for top in entry.top} | {entry.token: entry.logprob}
