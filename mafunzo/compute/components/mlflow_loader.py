"""Loads this chat model for `mlflow.pyfunc`: conversations in, replies out. It needs torch and transformers, and nothing else
of ours; an adapter needs peft too, and its base model: a folder in MAFUNZO_BASE_MODEL or `model_config={"base": ...}`.

    model = mlflow.pyfunc.load_model(folder)
    model.predict({"messages": [{"role": "user", "content": "Hello!"}]}, params={"max_new_tokens": 64})

`predict` takes one conversation (`{"messages": [...], "tools": [...]}`), a list or DataFrame of them, or Azure ML's
`{"input_data": {"input_string": [...], "parameters": {...}}}`, and returns a list with one text for each conversation.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteria

BASE_VARIABLE = "MAFUNZO_BASE_MODEL"
DEFAULT_MAX_NEW_TOKENS = 256
ALIASES = {"max_tokens": "max_new_tokens", "max_gen_len": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
PARAMETERS = ("max_new_tokens", "temperature", "top_p", "top_k", "do_sample", "stop", "seed")
NOT_FOR_TEMPLATES = ("weight", "loss", "train", "training")


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> "ChatModel":
    """Load the model folder `path`; MLflow calls this."""
    return ChatModel(Path(path), model_config or {})


class ChatModel:
    """A network and its tokenizer; greedy unless `temperature` or `do_sample` is given."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """config: base (folder of an adapter's base), device (auto, cpu, cuda ...), trust_remote_code."""
        trusts_code = bool(config.get("trust_remote_code"))
        adapter = folder / "data" / "adapter"
        model_folder = adapter if adapter.exists() else folder / "data" / "model"
        base = _base(folder, config) if adapter.exists() else model_folder
        self.tokenizer = AutoTokenizer.from_pretrained(
            model_folder, local_files_only=True, trust_remote_code=trusts_code
        )
        network = AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", use_safetensors=True, local_files_only=True, trust_remote_code=trusts_code
        )
        if adapter.exists():
            from peft import PeftModel

            network = PeftModel.from_pretrained(network, str(adapter))
        device = config.get("device") or "auto"
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = network.to(device).eval()
        settings = GenerationConfig.from_pretrained(model_folder)
        stop = settings.eos_token_id
        self.stop_token_ids = [stop] if isinstance(stop, int) else list(stop or [])
        padding = self.tokenizer.pad_token_id
        self.padding_id = self.stop_token_ids[0] if padding is None else padding

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Return the reply to each conversation in `data`; `parameters` inside of it win over `params`."""
        conversations = list(_conversations(data))
        if not conversations:
            raise ValueError(
                'No conversation was given. Expected {"messages": [{"role": "user", "content": "..."}]}, a list or DataFrame '
                'of such rows, or {"input_data": {"input_string": [...]}}.'
            )
        defaults = {name: value for name, value in (params or {}).items() if value is not None}
        return [self.reply(messages, tools, {**defaults, **overrides}) for messages, tools, overrides in conversations]

    def reply(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, parameters: Mapping[str, Any]
    ) -> str:
        """Return the assistant's next turn as text."""
        values = _checked(parameters)
        text = self.tokenizer.apply_chat_template(
            self._template_messages(messages), tools=tools, tokenize=False, add_generation_prompt=True
        )
        # The template writes the tokens of beginning and end; the tokenizer must not add them a second time.
        ids_1T = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(
            self.network.device
        )
        temperature = values.get("temperature")
        samples = bool(values.get("do_sample", temperature is not None)) and temperature != 0
        stop = values.get("stop") or []
        stop_at = _StopAt(self.tokenizer, ids_1T.shape[1], [stop] if isinstance(stop, str) else list(stop))
        settings = GenerationConfig(
            max_new_tokens=int(values.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)),
            do_sample=samples,
            temperature=float(temperature or 1.0) if samples else None,
            top_p=float(values.get("top_p", 1.0)) if samples else None,
            top_k=int(values.get("top_k", 0)) if samples else None,
            eos_token_id=self.stop_token_ids,
            pad_token_id=self.padding_id,
        )
        with torch.random.fork_rng(), torch.inference_mode():
            if "seed" in values:
                torch.manual_seed(int(values["seed"]))
            out_1T = self.network.generate(
                input_ids=ids_1T,
                attention_mask=torch.ones_like(ids_1T),
                generation_config=settings,
                stopping_criteria=[stop_at],
            )
        reply = stop_at.reply(out_1T)
        ends = [reply.index(text) for text in stop_at.texts if text in reply]
        return reply[: min(ends)] if ends else reply

    def _template_messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the messages as chat templates expect them, as in training."""
        knows_developer = "developer" in (self.tokenizer.chat_template or "")
        bodies = []
        for message in messages:
            body = {key: value for key, value in message.items() if key not in NOT_FOR_TEMPLATES and _is_set(value)}
            if body.get("role") == "developer" and not knows_developer:
                body["role"] = "system"
            if body.get("tool_calls"):
                body["tool_calls"] = [_template_call(call) for call in body["tool_calls"]]
            bodies.append(body)
        return bodies


class _StopAt(StoppingCriteria):  # type: ignore[misc]
    """Ends generation once the reply holds one of `texts`; transformers' own `stop_strings` matches the prompt too."""

    def __init__(self, tokenizer: Any, prompt_tokens: int, texts: list[str]) -> None:
        self.tokenizer, self.prompt_tokens, self.texts = tokenizer, prompt_tokens, texts

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        is_done = bool(self.texts) and any(text in self.reply(input_ids) for text in self.texts)
        return torch.full((input_ids.shape[0],), is_done, device=input_ids.device, dtype=torch.bool)

    def reply(self, ids_1T: Any) -> str:
        """Return the generated text."""
        return str(self.tokenizer.decode(ids_1T[0, self.prompt_tokens :], skip_special_tokens=True))


def _conversations(data: Any) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]] | None, dict[str, Any]]]:
    """Yield messages, tools and parameters of each conversation."""
    if hasattr(data, "to_dict"):
        data = data.to_dict("records")
    if isinstance(data, Mapping):
        data = [data]
    if not isinstance(data, list):
        return
    if data and all(_is_message(row) for row in data):
        yield data, None, {}
        return
    for row in data:
        if not isinstance(row, Mapping):
            continue
        tools = list(row["tools"]) if _is_set(row.get("tools")) else None
        if _is_set(row.get("messages")):
            yield list(row["messages"]), tools, {}
        if isinstance(row.get("input_data"), Mapping):
            body = row["input_data"]
            parameters = dict(body.get("parameters") or {})
            strings = body.get("input_string") or []
            is_one = bool(strings) and all(_is_message(entry) for entry in strings)
            for messages in [strings] if is_one else strings:
                yield list(messages), tools, parameters


def _checked(parameters: Mapping[str, Any]) -> dict[str, Any]:
    values = {ALIASES.get(name, name): value for name, value in parameters.items() if value is not None}
    unknown = sorted(set(values) - set(PARAMETERS))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not a parameter, expected some of {', '.join(PARAMETERS)}.")
    return values


def _template_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI writes the arguments of a call as JSON in a string; templates expect an object, `{}` for a call without any."""
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = json.loads(arguments) if arguments.strip() else None
    function["arguments"] = arguments if _is_set(arguments) and arguments != [] else {}
    return {**call, "function": function}


def _is_message(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "role" in entry


def _is_set(value: Any) -> bool:
    """A DataFrame fills what a row doesn't have with NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _base(folder: Path, config: Mapping[str, Any]) -> Path:
    """Return the adapter's base folder, if it holds the weights that the adapter was trained on."""
    facts = json.loads((folder / "mafunzo_model.json").read_text(encoding="utf-8"))["base"]
    path = config.get("base") or os.environ.get(BASE_VARIABLE)
    description = f"{facts['name']} {facts['version']} ({facts['source']})"
    if not path:
        raise ValueError(
            f"This model is an adapter; its base is {description}. Name the base's folder in {BASE_VARIABLE}, or pass "
            'model_config={"base": FOLDER} to load_model. `mafunzo model download` writes such a folder.'
        )
    base = Path(path)
    if not (base / "config.json").exists():
        raise ValueError(f"The base folder {base} has no config.json. Expected {description}.")
    actual = weights_sha256(base)
    if actual != facts["weights_sha256"]:
        raise ValueError(
            f"The base folder {base} has weights with the hash {actual}; the adapter was trained on {description} "
            f"with the hash {facts['weights_sha256']}."
        )
    return base


def weights_sha256(folder: Path) -> str:
    """Return the hash of a folder's weights: what `sha256sum *.safetensors | sha256sum` prints there."""
    lines = []
    for file in sorted(folder.glob("*.safetensors"), key=lambda file: file.name):
        with file.open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {file.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
