"""Azure's scoring dialect: one conversation or many, parameters by either name, and every fault at once."""

import pytest

from mafunzo.entrypoints.azure.wire.scoring import answer_body, requests_from_body
from mafunzo.errors import InvalidParameter

MAX_CONVERSATIONS = 64
ONE = [{"role": "user", "content": "Habari?"}]


def body(conversations: object, **parameters: object) -> dict[str, object]:
    return {"input_data": {"input_string": conversations, "parameters": parameters}}


def answer(text: str | None) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_one_conversation_is_one_request_and_one_text() -> None:
    (asked,), is_list = requests_from_body(body(ONE, max_new_tokens=7), "chat", MAX_CONVERSATIONS)
    assert asked == {"model": "chat", "messages": ONE, "max_tokens": 7} and not is_list
    assert answer_body([answer("Nzuri")], is_list) == {"output": "Nzuri"}


def test_a_list_is_answered_as_a_list_in_its_order() -> None:
    asked, is_list = requests_from_body(body([ONE, ONE]), "chat", MAX_CONVERSATIONS)
    assert len(asked) == 2 and is_list
    assert answer_body([answer("a"), answer(None)], is_list) == {"output": ["a", ""]}


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": True}, {"temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0}),
        ({"max_gen_len": 3}, {"max_tokens": 3}),
        ({"stop": ["x"], "seed": 1, "top_k": 5}, {"stop": ["x"], "seed": 1, "top_k": 5}),
        ({"temperature": None}, {}),
    ],
)
def test_parameters_are_openais(given: dict[str, object], option: dict[str, object]) -> None:
    (asked,), _ = requests_from_body(body(ONE, **given), "chat", MAX_CONVERSATIONS)
    assert {name: value for name, value in asked.items() if name not in ("model", "messages")} == option


def test_parameters_win_over_params() -> None:
    (asked,), _ = requests_from_body(
        {**body(ONE, temperature=1), "params": {"temperature": 0, "top_p": 0.5}}, "chat", MAX_CONVERSATIONS
    )
    assert (asked["temperature"], asked["top_p"]) == (1, 0.5)


@pytest.mark.parametrize(
    ("given", "faults"),
    [
        (None, ["has no conversation"]),
        ([], ["has no conversation"]),
        ({"messages": ONE}, ["has no conversation"]),
        (body("text"), ["has no conversation"]),
        (body([]), ["conversation 1 isn't a list"]),
        (body([ONE, [], [{"content": "x"}]]), ["conversation 2 isn't", "conversation 3 isn't"]),
        (body([ONE] * (MAX_CONVERSATIONS + 1)), [f"expected {MAX_CONVERSATIONS} at most"]),
        ({**body(ONE), "params": "x"}, ["params is 'x', expected an object"]),
        ({"input_data": {"input_string": ONE, "parameters": [1]}}, ["parameters is [1], expected an object"]),
        (body(ONE, do_sample="false"), ["do_sample is 'false', expected true or false"]),
        (body(ONE, max_tokens=1, max_new_tokens=2), ["max_tokens and max_new_tokens all say"]),
        (body(ONE, temprature=1, return_full_text=True), ["Did you mean temperature", "only the reply is returned"]),
    ],
)
def test_what_cannot_be_answered_is_refused_with_all_faults(given: object, faults: list[str]) -> None:
    with pytest.raises(InvalidParameter) as refused:
        requests_from_body(given, "chat", MAX_CONVERSATIONS)
    for fault in faults:
        assert fault in str(refused.value)


@pytest.mark.parametrize("parameters", [{}, {"\ud83d": 1}])
def test_half_a_character_is_refused_where_it_stands(parameters: dict[str, int]) -> None:
    body = {"input_data": {"input_string": [{"role": "user", "content": "cut: \ud83d"}], "parameters": parameters}}
    with pytest.raises(InvalidParameter, match=r"input_string\[0\]\.content has half a character") as caught:
        requests_from_body(body, "chat", 5)
    caught.value.message.encode()
