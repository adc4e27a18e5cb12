"""OpenAI's two dialects, whole and as a stream, over a real tiny model."""

import json
import random
from typing import Any

import pytest

from mafunzo.compute.inference.block_pool import SHARE_TOKENS
from tests.support.payload import DIALECT, dialect_body

TALK = [{"role": "user", "content": "How are you today?"}]
GREEDY = {"temperature": 0, "max_tokens": 6}


def chunks(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_streamed_chat_adds_up_to_the_whole_answer(ask):
    body = {"messages": TALK, "logprobs": True, "top_logprobs": 2, **GREEDY}
    ask("POST", "/v1/chat/completions", json=body)  # the prefix cache has the prompt for both that are compared
    whole = ask("POST", "/v1/chat/completions", json=body).json()
    streamed = chunks(
        ask(
            "POST", "/v1/chat/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
        ).text
    )
    deltas = [chunk["choices"][0] for chunk in streamed if chunk["choices"]]
    [choice] = whole["choices"]
    assert deltas[0]["delta"]["role"] == "assistant"
    assert "".join(delta["delta"].get("content") or "" for delta in deltas) == choice["message"]["content"]
    assert deltas[-1]["finish_reason"] == choice["finish_reason"] == "length"
    entries = [entry for delta in deltas for entry in (delta.get("logprobs") or {}).get("content", [])]
    assert entries == choice["logprobs"]["content"] and len(entries) == 6
    assert streamed[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_the_cache_is_shared_among_requests_of_one_salt_only(path, ask):
    text = f"What one user asks by {path} must not be told to another by how fast it is answered."
    body = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    cached = []
    for salt in ("mine", "yours", "mine", None, "yours"):
        salted = body | GREEDY | ({} if salt is None else {"cache_salt": salt})
        usage = ask("POST", path, json=salted).json()["usage"]
        # The chat template's own beginning is shared by all that send no salt.
        cached.append(usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] // 2)
    assert cached == [False, False, True, False, True]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("n", [1, 3])
def test_tokens_of_a_prompt_that_were_in_the_cache_are_counted_whole_and_streamed(path, n, ask, service):
    text = f"Tell me of the sea, of {n} ships and of all who sail on them, by {path}. " * 2
    body = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    body |= {"n": n, **GREEDY}
    first, again = (ask("POST", path, json=body).json()["usage"] for _ in range(2))
    prompt_tokens = first["prompt_tokens"]
    assert again["prompt_tokens"] == prompt_tokens > 32
    if n == 1:
        assert first["prompt_tokens_details"]["cached_tokens"] <= 32, (
            "the beginning of the chat template, and of this text"
        )
    assert again["prompt_tokens_details"] == {"cached_tokens": (prompt_tokens - 1) // SHARE_TOKENS * SHARE_TOKENS}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    assert chunks(ask("POST", path, json=body | options).text)[-1]["usage"] == again


def test_a_streamed_completion_adds_up_to_the_whole_one(ask):
    body = {"prompt": "Hello", **GREEDY}
    [choice] = ask("POST", "/v1/completions", json=body).json()["choices"]
    streamed = chunks(ask("POST", "/v1/completions", json=body | {"stream": True}).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == choice["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed][-1] == choice["finish_reason"]


def test_a_prompt_that_is_echoed_comes_with_its_log_probabilities(ask):
    body = {"prompt": [5, 6, 7], "echo": True, "logprobs": 0, "max_tokens": 0}
    [choice] = ask("POST", "/v1/completions", json=body).json()["choices"]
    values = choice["logprobs"]["token_logprobs"]
    assert values[0] is None and len(values) == 3 and all(value < 0 for value in values[1:])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_several_choices_are_drawn_apart_and_add_up_when_streamed(path, ask):
    body = {"messages": TALK} if "chat" in path else {"prompt": ["Hello", "Thank you"]}
    body |= {"n": 3, "seed": 7, "max_tokens": 5, "temperature": 1.5, "ignore_eos": True}
    ask("POST", path, json=body)  # the prefix cache has the prompts for both that are compared
    whole = ask("POST", path, json=body).json()
    count = 3 if "chat" in path else 6
    assert [choice["index"] for choice in whole["choices"]] == list(range(count))
    texts = [choice["message"]["content"] if "chat" in path else choice["text"] for choice in whole["choices"]]
    assert len(set(texts[:3])) == 3, "each is drawn from a seed of its own"
    single = ask("POST", path, json=body | {"n": 1}).json()
    assert whole["usage"]["completion_tokens"] == 5 * count
    assert whole["usage"]["prompt_tokens"] == single["usage"]["prompt_tokens"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = chunks(ask("POST", path, json=body | options).text)
    found = dict.fromkeys(range(count), "")
    for chunk in streamed[:-1]:
        [choice] = chunk["choices"]
        found[choice["index"]] += (choice["delta"].get("content") or "") if "chat" in path else choice["text"]
        assert chunk["usage"] is None
    assert list(found.values()) == texts
    assert streamed[-1]["usage"] == whole["usage"] and streamed[-1]["choices"] == []
    assert sum(bool(chunk["choices"][0]["finish_reason"]) for chunk in streamed[:-1]) == count


@pytest.mark.parametrize("prompt", ["Hello, 世界 you", "é"])
def test_an_echo_is_the_prompt_s_text_and_offsets_count_its_characters(prompt, ask, service):
    tokenizer = service.loaded.tokenizer
    ids = tokenizer(prompt)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    body = {"echo": True, "logprobs": 1, **GREEDY}
    for form in (prompt, ids):
        [choice] = ask("POST", "/v1/completions", json=body | {"prompt": form}).json()["choices"]
        assert choice["text"].startswith(prompt)
        logprobs = choice["logprobs"]
        assert logprobs["token_ids"][: len(ids)] == ids and len(logprobs["token_ids"]) == len(ids) + 6
        assert all(
            len(logprobs[name]) == len(ids) + 6 for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        )
        offsets = logprobs["text_offset"]
        assert offsets == sorted(offsets) and offsets[0] == offsets[1] == 0
        assert offsets[len(ids)] == len(prompt)
        ends = [*offsets[1:], len(choice["text"])]
        texts = [choice["text"][start:end] for start, end in zip(offsets, ends, strict=True)]
        pairs = zip(texts[1:], logprobs["tokens"][1:], strict=True)
        assert all(text == token for text, token in pairs if text.isascii() and token.isascii() and text)


def test_tokens_are_named_by_their_ids_on_request(ask, service):
    ids = service.loaded.tokenizer("Hello")["input_ids"]
    body = {"prompt": ids, "logprobs": 2, "return_tokens_as_token_ids": True, **GREEDY}
    echoed = ask("POST", "/v1/completions", json=body | {"echo": True}).json()["choices"][0]["logprobs"]
    assert echoed["tokens"] == [f"token_id:{id}" for id in echoed["token_ids"]]
    for name, value, top in zip(echoed["tokens"], echoed["token_logprobs"], echoed["top_logprobs"], strict=True):
        assert top is None or (top[name] == value and 2 <= len(top) <= 3)
    streamed = [
        chunk["choices"][0]["logprobs"]
        for chunk in chunks(ask("POST", "/v1/completions", json=body | {"stream": True}).text)
    ]
    pieces = [name for piece in streamed if piece for name in piece["tokens"]]
    assert pieces == echoed["tokens"][len(ids) :]


def test_offsets_of_a_stream_are_those_of_the_whole_text(ask):
    body = {"prompt": "Hello", "logprobs": 0, "max_tokens": 40, "temperature": 1.0, "seed": 3, "ignore_eos": True}
    [choice] = ask("POST", "/v1/completions", json=body).json()["choices"]
    streamed = chunks(ask("POST", "/v1/completions", json=body | {"stream": True}).text)
    pieces = [chunk["choices"][0]["logprobs"] for chunk in streamed]
    offsets = [offset for piece in pieces if piece for offset in piece["text_offset"]]
    assert offsets == choice["logprobs"]["text_offset"] and offsets[-1] <= len(choice["text"])
    assert len(offsets) == 40 and len(set(offsets)) > 10


def test_offsets_end_where_a_stop_string_cut_the_text(ask):
    body = {"prompt": "Hello", "logprobs": 0, "max_tokens": 30, "temperature": 0}
    text = ask("POST", "/v1/completions", json=body).json()["choices"][0]["text"]
    stops = ["no such", "\n\n\n\n", "<|x|>", "really not", text[6:9]]
    for is_stream in (False, True):
        answer = ask("POST", "/v1/completions", json=body | {"stop": stops, "stream": is_stream})
        choices = [c["choices"][0] for c in chunks(answer.text)] if is_stream else answer.json()["choices"]
        assert "".join(choice["text"] for choice in choices) == text[: text.index(text[6:9])]
        offsets = [
            offset for choice in choices for offset in (choice["logprobs"] or {"text_offset": []})["text_offset"]
        ]
        assert max(offsets) <= text.index(text[6:9])


def test_prompts_of_an_evaluation_harness_are_scored(ask):
    body = {
        "prompt": [[1, 2, 3, 4, 5, 6], [7, 8, 9]],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    choices = ask("POST", "/v1/completions", json=body).json()["choices"]
    for choice, count in zip(choices, (7, 4), strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == count and logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None and all(logprobs["top_logprobs"][1:])


def test_penalties_and_biases_change_what_is_said(ask):
    body = {"prompt": "Hello", **GREEDY}
    plain = ask("POST", "/v1/completions", json=body | {"logprobs": 0}).json()["choices"][0]
    first = plain["logprobs"]["token_ids"][0]
    for change in ({"logit_bias": {str(first): -100}}, {"repetition_penalty": 50.0}):
        assert ask("POST", "/v1/completions", json=body | change).json()["choices"][0]["text"] != plain["text"]
    answer = ask("POST", "/v1/completions", json=body | {"logit_bias": {"999999": 1}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logit_bias")


def test_variables_of_the_chat_template_are_its_own(ask):
    answer = ask(
        "POST", "/v1/chat/completions", json={"messages": TALK, "chat_template_kwargs": {"enable_thinking": True}}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chat_template_kwargs.enable_thinking")


COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
PAINT = {"type": "function", "function": {"name": "paint", "parameters": COLOUR}}
WASH = {"type": "function", "function": {"name": "wash"}}


def structured(ask: Any, **fields: Any) -> list[Any]:
    """The choices of an answer, whole, and as a stream adds up to them."""
    body = {"messages": TALK, "max_tokens": 400, "seed": 5, **fields}
    choices = ask("POST", "/v1/chat/completions", json=body).json()["choices"]
    found: list[dict[str, Any]] = [{"content": "", "calls": []} for _ in choices]
    for chunk in chunks(ask("POST", "/v1/chat/completions", json=body | {"stream": True}).text):
        [choice] = chunk["choices"]
        found[choice["index"]]["content"] += choice["delta"].get("content") or ""
        found[choice["index"]]["calls"] += [c["function"] for c in choice["delta"].get("tool_calls") or []]
        found[choice["index"]]["reason"] = choice["finish_reason"]
    for choice, streamed in zip(choices, found, strict=True):
        assert streamed["content"] == (choice["message"]["content"] or "")
        assert streamed["calls"] == [c["function"] for c in choice["message"].get("tool_calls") or []]
        assert streamed["reason"] == choice["finish_reason"]
    return choices


def test_answers_are_json_of_the_schema(ask):
    response_format = {"type": "json_schema", "json_schema": {"name": "paint", "schema": COLOUR, "strict": True}}
    choices = structured(ask, response_format=response_format, n=4)
    for choice in choices:
        body = json.loads(choice["message"]["content"])
        assert body["colour"] in ("red", "green") and 0 <= body["count"] <= 9 and len(body) == 2
        assert choice["finish_reason"] == "stop"
    assert len({choice["message"]["content"] for choice in choices}) > 1


def test_an_answer_may_be_any_json_object(ask):
    [choice] = structured(ask, response_format={"type": "json_object"}, temperature=0)
    text = choice["message"]["content"]
    assert text.startswith("{") and (choice["finish_reason"] == "length" or isinstance(json.loads(text), dict))


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        pytest.param("required", {"paint", "wash"}, id="any"),
        pytest.param({"type": "function", "function": {"name": "paint"}}, {"paint"}, id="a name"),
    ],
)
def test_a_forced_call_is_made_with_arguments_of_its_schema(choice, names, ask):
    choices = structured(ask, tools=[PAINT, WASH], tool_choice=choice, parallel_tool_calls=False, n=6)
    called = set()
    for answer in choices:
        [call] = answer["message"]["tool_calls"]
        assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None
        called.add(call["function"]["name"])
        arguments = json.loads(call["function"]["arguments"])
        assert set(arguments) == ({"colour", "count"} if call["function"]["name"] == "paint" else set())
    assert called == names


def test_several_calls_may_be_forced_at_once(ask):
    choices = structured(ask, tools=[WASH], tool_choice="required", n=8, temperature=2)
    assert max(len(choice["message"]["tool_calls"]) for choice in choices) > 1


def test_a_schema_that_cannot_be_held_is_refused_before_anything_starts(ask):
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wat"}}}
    answer = ask("POST", "/v1/chat/completions", json={"messages": TALK, "response_format": response_format})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/nope"}}}]
    answer = ask("POST", "/v1/chat/completions", json={"messages": TALK, "tools": tools, "tool_choice": "required"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")


def test_several_prompts_have_a_choice_each_and_one_usage(ask):
    body = ask("POST", "/v1/completions", json={"prompt": ["Hello", "Thank you"], **GREEDY}).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_prompt_without_room_is_refused_before_anything_streams(path, ask):
    long = "x " * 3000
    prompt = {"messages": [{"role": "user", "content": long}]} if "chat" in path else {"prompt": long}
    answer = ask("POST", path, json={**prompt, "stream": True})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
    assert answer.json()["error"]["param"] == ("messages" if "chat" in path else "prompt")


def test_one_bad_prompt_of_several_starts_none(ask, service):
    before = service.loaded.engine.load()
    answer = ask("POST", "/v1/completions", json={"prompt": [[5, 6], [10**6]], **GREEDY})
    assert answer.status_code == 400 and "isn't in the vocabulary" in answer.json()["error"]["message"]
    assert service.loaded.engine.load() == before == (0, 0)


def check_broken_requests(ask: Any, seed: int, count: int) -> None:
    """Send broken requests in the dialect: none may be answered by 5xx, and a refusal names the part at fault."""
    statuses = set()
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        route = rng.choice(sorted(DIALECT))
        content = dialect_body(rng, route)
        answer = ask("POST", route, content=content)
        statuses.add(answer.status_code)
        if answer.status_code != 200:
            assert answer.status_code == 400, (number, content, answer.text)
            has_param = answer.json()["error"]["param"] is not None
            assert has_param or not isinstance(json.loads(content), dict), (number, content)
    assert statuses == {200, 400}


def test_broken_requests_are_refused_by_name(ask):
    check_broken_requests(ask, seed=8, count=150)


@pytest.mark.slow
def test_many_broken_requests_are_refused_by_name(ask):
    check_broken_requests(ask, seed=9, count=2000)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param({"messages": [{"role": "user", "content": "cut: \ud83d"}]}, "messages[0].content", id="a message"),
        pytest.param({"messages": TALK, "stream": True, "user": "\ud83d"}, "user", id="a stream"),
        pytest.param({"messages": TALK, "model": "\ud83d"}, "model", id="the model"),
        pytest.param({"messages": TALK, "\ud83d": 1}, "\\ud83d", id="a field's name"),
        pytest.param({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls", id="calls"),
    ],
)
def test_what_cannot_be_processed_is_refused_by_name(body, param, ask):
    answer = ask("POST", "/v1/chat/completions", content=json.dumps(body))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_reply_that_may_call_is_the_same_as_a_stream(ask, service, monkeypatch):
    template = "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}<tool_call>"
    monkeypatch.setattr(service.loaded.tokenizer, "chat_template", template)
    [choice] = structured(ask, tools=[PAINT, WASH], max_tokens=60)
    assert choice["message"]["content"] or choice["message"]["tool_calls"]


def test_tools_without_a_place_in_the_template_are_refused(ask, service, monkeypatch):
    monkeypatch.setattr(service.loaded.tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
    body = {"messages": TALK, "tools": [{"type": "function", "function": {"name": "f"}}]}
    answer = ask("POST", "/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    assert ask("POST", "/v1/chat/completions", json=body | {"tool_choice": "none", **GREEDY}).status_code == 200


def test_a_conversation_with_broken_arguments_goes_on(ask):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "save_note", "arguments": '{"text": "said "yes" and'},
    }
    messages = [
        {"role": "user", "content": "Save my note."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "The arguments could not be read."},
        {"role": "user", "content": "Never mind, just say hello."},
    ]
    assert ask("POST", "/v1/chat/completions", json={"messages": messages, **GREEDY}).status_code == 200


def test_fields_that_clients_add_to_messages_change_nothing(ask):
    parts = [{"type": "text", "text": "How are "}, {"type": "text", "text": "you today?"}]
    body = {
        "messages": [{"role": "user", "content": parts, "name": None, "id": 17, "opts": {"visible": False}}],
        "stop": None, "n": 1, "logit_bias": None, "user": "u1", "metadata": {}, "stream": False, "stream_options": None,
        "tools": None, "tool_choice": None, "response_format": {"type": "text"},
    }  # fmt: skip
    answer = ask("POST", "/v1/chat/completions", json=body | GREEDY).json()
    plain = ask("POST", "/v1/chat/completions", json={"messages": TALK, **GREEDY}).json()
    assert answer["choices"] == plain["choices"] and answer["usage"] == plain["usage"]
