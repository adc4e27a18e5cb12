"""Azure's scoring dialect (`/score`) translated to OpenAI's, which workers speak, and the answers back.

`input_string` is one conversation (a list of messages) or a list of conversations; each is answered: one gives
`{"output": "text"}`, a list gives `{"output": ["text", ...]}` in its order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mafunzo.entities.component import unknown_name
from mafunzo.errors import Faults, InvalidParameter
from mafunzo.protocol.body import check_values

_NAMES = {
    "max_new_tokens": "max_tokens",
    "max_gen_len": "max_tokens",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop": "stop",
    "seed": "seed",
}
_OTHERS = ("do_sample", "return_full_text")


def requests_from_body(body: Any, model: str, max_conversations: int) -> tuple[list[dict[str, Any]], bool]:
    """Return OpenAI's request for each conversation, and whether a list of them was given.

    Raises `InvalidParameter` with all faults.
    """
    check_values(body)
    input_data = body.get("input_data") if isinstance(body, Mapping) else None
    if not isinstance(input_data, Mapping) or not isinstance(input_data.get("input_string"), list):
        raise InvalidParameter(
            'The body has no conversation. Send {"input_data": {"input_string": [{"role": "user", "content": "..."}], '
            '"parameters": {}}}.',
            param="input_data.input_string",
        )
    conversations, is_list = _conversations(input_data["input_string"], max_conversations)
    options = _options(_mapping(body, "params"), _mapping(input_data, "parameters"))
    return [{"model": model, "messages": messages, **options} for messages in conversations], is_list


def answer_body(answers: Sequence[Mapping[str, Any]], is_list: bool) -> dict[str, Any]:
    """Return what `/score` answers, from OpenAI's answers."""
    texts = [answer["choices"][0]["message"].get("content") or "" for answer in answers]
    return {"output": texts if is_list else texts[0]}


def _conversations(input_string: list[Any], max_conversations: int) -> tuple[list[list[Any]], bool]:
    is_list = bool(input_string) and all(isinstance(one, list) for one in input_string)
    conversations = input_string if is_list else [input_string]
    faults = Faults()
    if len(conversations) > max_conversations:
        faults.add(f"{len(conversations)} conversations, expected {max_conversations} at most. Send them in parts.")
    for number, messages in enumerate(conversations, start=1):
        if not messages or not all(isinstance(message, Mapping) and "role" in message for message in messages):
            faults.add(f"conversation {number} isn't a list of messages with role and content.")
    if faults:
        raise InvalidParameter("input_string can't be answered.", tuple(faults), param="input_data.input_string")
    return conversations, is_list


def _mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name) or {}
    if not isinstance(value, Mapping):
        raise InvalidParameter(f"{name} is {value!r}, expected an object of parameters.", param=name)
    return value


def _options(params: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's options; `parameters` win over `params`."""
    values = {name: value for name, value in {**params, **parameters}.items() if value is not None}
    faults = Faults()
    faults.add(*(unknown_name(name, [*_NAMES, *_OTHERS]) for name in values if name not in (*_NAMES, *_OTHERS)))
    for name in _OTHERS:
        if not isinstance(values.get(name, True), bool):
            faults.add(f"{name} is {values[name]!r}, expected true or false.")
    if values.get("return_full_text") is True:
        faults.add("return_full_text is true: only the reply is returned. Leave it out.")
    lengths = [name for name in values if _NAMES.get(name) == "max_tokens"]
    if len(lengths) > 1:
        faults.add(f"{' and '.join(lengths)} all say how long a reply may be. Keep one.")
    if faults:
        raise InvalidParameter("parameters can't be used.", tuple(faults), param="input_data.parameters")
    options = {_NAMES[name]: value for name, value in values.items() if name in _NAMES}
    if values.get("do_sample") is False:
        options["temperature"] = 0
        options.pop("top_p", None)
    return options
