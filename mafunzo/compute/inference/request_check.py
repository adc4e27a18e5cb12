"""What any engine refuses of a generation request before it begins."""

from collections.abc import Set

from mafunzo.compute.inference.request import GenerationRequest
from mafunzo.errors import ContextLengthExceeded, InvalidParameter

PROMPT = "prompt"
"""What the engines' refusals are about."""


def check_request(
    request: GenerationRequest, max_model_len: int, vocab_size: int, adapter_names: Set[str], least_tokens: int = 0
) -> None:
    """Raise `InvalidParameter` for an empty or too long prompt, ids outside the vocabulary, or an unknown adapter.

    max_model_len: prompt and reply together, in tokens. least_tokens: what the engine generates also where nobody asks for any.
    """
    ids = request.prompt_token_ids
    if not ids:
        raise InvalidParameter("The prompt has no tokens.", param=PROMPT)
    max_tokens = max(least_tokens, 1 if request.max_tokens is None else request.max_tokens)
    if max_model_len - len(ids) < max_tokens:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {max_model_len} tokens. However, the prompt has {len(ids)} "
            f"tokens and {max_tokens} were asked for: {len(ids) + max_tokens} in all. "
            "Shorten the messages or the completion.",
            param=PROMPT,
        )
    faults = [id for id in ids if not 0 <= id < vocab_size]
    if faults:
        raise InvalidParameter(f"Token id {faults[0]} isn't in the vocabulary: 0 to {vocab_size - 1}.", param=PROMPT)
    if request.adapter is not None and request.adapter not in adapter_names:
        known = f"expected {', '.join(sorted(adapter_names))}, or none" if adapter_names else "there are none"
        raise InvalidParameter(f"There is no adapter '{request.adapter}': {known}.", param="model")
    biased = [id for id in request.sampling.logit_bias if not 0 <= id < vocab_size]
    if biased:
        raise InvalidParameter(
            f"logit_bias.{biased[0]}: that token id isn't in the vocabulary: 0 to {vocab_size - 1}.",
            param="logit_bias",
        )
