"""Reference token ids and log-probabilities of a few held-out rows, which an endpoint must reproduce to go live.

Of the tokens of each last answer it also has the likeliest ones in their places, which greedy decoding would take.

All comes from plain `transformers` (and `peft`); Mafunzo's rendering and loading, which they check, aren't used here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from mafunzo.compute.device import precision
from mafunzo.entities.conversation import call_arguments
from mafunzo.entities.verification import is_lower_precision
from mafunzo.errors import InvalidData

TOLERANCE: Mapping[torch.dtype, tuple[float, float]] = {
    torch.float32: (1e-2, 1e-3),
    torch.bfloat16: (1.5, 0.15),
    torch.float16: (0.5, 0.05),
}
"""By dtype, how far log-probabilities of right answers may lie apart: the largest difference, and the mean difference.

The same weights give other roundings when rows are batched, cached or attended to by another kernel. Measured on a CPU
(AVX-512 bf16) with SmolLM2-135M-Instruct over 1,800 tokens, against one forward a row: float32 at most 3.1e-5, mean 3e-6;
bfloat16 at most 0.62, mean 0.041 (batches 0.36, token by token 0.62, eager attention 0.42, float32 arithmetic 0.38, an
adapter beside the weights instead of merged 0.53; the largest at tokens of log-probability below -10). The bounds leave a
factor of 2.4 or more for bfloat16, and more for float32, where a GPU's kernels and deeper networks round further; float16,
not measured, rounds 8 times finer than bfloat16. The mean is what tells a network without its adapter from one with it:
`base_difference` says whether it can.
"""
_REASON = (
    "The same weights round differently in {dtype} when rows are batched, cached or attended to by another kernel. The bounds "
    "are above all that was measured so, and base_difference says how far the untuned model lies away."
)


def serving_reference(
    base: Path,
    tuned: Path,
    merge: bool,
    raw_rows: Sequence[Mapping[str, Any]],
    rows: int,
    max_tokens: int,
    dtype: torch.dtype | None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Return the content of `serving_reference.json`.

    `rows` rows are taken, in order: each as many of its leading turns as stay within `max_tokens`, to an assistant's turn.
    dtype: None keeps that of the weights. `tuned` is an adapter folder of `base`, or a whole model's folder.
    """
    tokenizer = AutoTokenizer.from_pretrained(tuned, local_files_only=True, trust_remote_code=trust_remote_code)
    samples = [row for row in (_rendered(tokenizer, raw, max_tokens) for raw in raw_rows) if row is not None][:rows]
    if not samples:
        raise InvalidData(
            f"No held-out row begins with an exchange of at most {max_tokens} tokens: serving can't be proven."
        )
    is_adapter = (tuned / "adapter_config.json").exists()
    options: dict[str, Any] = {
        "dtype": dtype or "auto",
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": trust_remote_code,
    }
    network: Any = AutoModelForCausalLM.from_pretrained(base, **options).to(device).eval()
    dtype = network.dtype
    base_logprobs = [_scores(network, row["token_ids"])[0] for row in samples]
    if is_adapter:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, str(tuned)).eval()
        network = network.merge_and_unload() if merge else network
    else:
        del network
        network = AutoModelForCausalLM.from_pretrained(tuned, **options).to(device).eval()
    scores = [_scores(network, row["token_ids"]) for row in samples]
    tuned_logprobs = [logprobs for logprobs, _ in scores]
    largest, mean = TOLERANCE[dtype]
    return {
        "tolerance": largest,
        "mean_tolerance": mean,
        "lower_precision_tolerances": _lower_precision_tolerances(dtype),
        "tolerance_reason": _REASON.format(dtype=precision.name(dtype)),
        "base_difference": _difference(base_logprobs, tuned_logprobs),
        "dtype": precision.name(dtype),
        "merged": merge or not is_adapter,
        "stop_token_ids": stop_token_ids(base, tuned, tokenizer, trust_remote_code),
        "rows": [
            {
                **row,
                "logprobs": [None, *(round(value, 6) for value in logprobs)],
                "base_logprobs": [None, *(round(value, 6) for value in of_base)],
                "greedy_ids": _of_last_answer(row, likeliest),
            }
            for row, (logprobs, likeliest), of_base in zip(samples, scores, base_logprobs, strict=True)
        ],
    }


def stop_token_ids(base: Path, tuned: Path, tokenizer: Any, trust_remote_code: bool = False) -> list[int]:
    """Return the stop tokens: those at which `generate` stops, and the one that ends a turn in the chat template."""
    folder = tuned if (tuned / "config.json").exists() else base
    has_settings = (folder / "generation_config.json").exists()
    settings = GenerationConfig.from_pretrained(folder, local_files_only=True) if has_settings else GenerationConfig()
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    eos = settings.eos_token_id if settings.eos_token_id is not None else getattr(config, "eos_token_id", None)
    ends = [eos] if isinstance(eos, int) else list(eos or [])
    turn = end_of_turn_id(tokenizer)
    return sorted({*ends, *([turn] if turn is not None else [])})


def end_of_turn_id(tokenizer: Any) -> int | None:
    """Return the added token that the chat template puts right after an assistant's text, or None if it puts none there."""
    marker = "XQ7"
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": marker}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    suffix = text[text.rindex(marker) + len(marker) :].lstrip()
    ids = tokenizer(suffix, add_special_tokens=False)["input_ids"]
    return int(ids[0]) if ids and ids[0] in tokenizer.added_tokens_decoder else None


def _rendered(tokenizer: Any, raw: Mapping[str, Any], max_tokens: int) -> dict[str, Any] | None:
    """Return a row's leading turns with their token ids; None where they are too long, or the plain template refuses them."""
    try:
        return _longest(tokenizer, raw, max_tokens)
    except (TemplateError, TypeError):
        return None


def _longest(tokenizer: Any, raw: Mapping[str, Any], max_tokens: int) -> dict[str, Any] | None:
    messages = [{key: value for key, value in message.items() if value is not None} for message in raw["messages"]]
    tools = raw.get("tools") or None
    ends = [i + 1 for i, message in enumerate(messages) if message["role"] == "assistant" and i > 0]
    for end in reversed(ends):
        token_ids = _ids(tokenizer, messages[:end], tools, False)
        if len(token_ids) <= max_tokens:
            prompt_ids = _ids(tokenizer, messages[: end - 1], tools, True)
            body = {"messages": messages[:end], "token_ids": token_ids, "prompt_token_ids": prompt_ids}
            return body | ({"tools": tools} if tools else {})
    return None


def _ids(tokenizer: Any, messages: list[dict[str, Any]], tools: Any, add_generation_prompt: bool) -> list[int]:
    encoding = tokenizer.apply_chat_template(
        [_with_objects(message) for message in messages],
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        tokenize=True,
        return_dict=True,
    )
    return [int(token) for token in encoding["input_ids"]]


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with the arguments of its calls as `transformers` documents them: as objects."""
    calls = [
        {**call, "function": {**call["function"], "arguments": call_arguments(call["function"].get("arguments"))}}
        for call in message.get("tool_calls") or ()
    ]
    return {**message, "tool_calls": calls} if calls else message


@torch.inference_mode()
def _scores(network: Any, token_ids: Sequence[int]) -> tuple[list[float], list[int]]:
    """Return for each place but the first its token's log-probability given those before it, and the likeliest token there."""
    ids_1T = torch.tensor([list(token_ids)], device=network.device)
    logits_TV = network(input_ids=ids_1T, use_cache=False).logits[0, :-1]
    logprobs_T = logits_TV.float().log_softmax(dim=-1).gather(1, ids_1T[0, 1:, None])[:, 0]
    return [round(float(value), 6) for value in logprobs_T], logits_TV.argmax(dim=-1).tolist()


def _of_last_answer(row: Mapping[str, Any], likeliest: Sequence[int]) -> list[int | None]:
    """Return the likeliest token in each place of a row, or None before its last answer."""
    pairs = enumerate(zip(row["token_ids"], row["prompt_token_ids"], strict=False))
    start = next((at for at, (token, of_prompt) in pairs if token != of_prompt), len(row["prompt_token_ids"]))
    start = min(max(start, 1), len(row["token_ids"]))  # nothing is known before the first token
    return [None] * start + list(likeliest[start - 1 :])


def _lower_precision_tolerances(dtype: torch.dtype) -> dict[str, tuple[float, float]]:
    """Return by dtype what a worker is held to that computes in a lower precision than this."""
    names = {precision.name(other): bounds for other, bounds in TOLERANCE.items()}
    return {name: bounds for name, bounds in names.items() if is_lower_precision(name, precision.name(dtype))}


def _difference(base: list[list[float]], tuned: list[list[float]]) -> dict[str, float]:
    """Return the largest and mean difference of base and tuned: only beyond the tolerance are they distinguishable."""
    differences = [abs(a - b) for x, y in zip(base, tuned, strict=True) for a, b in zip(x, y, strict=True)]
    return {"max": max(differences), "mean": sum(differences) / len(differences)}
