"""OpenAI's two dialects, whole and as a stream, over a real tiny model."""

import json
from typing import Any

import pytest

TALK = [{"role": "user", "content": "How are you today?"}]
GREEDY = {"temperature": 0, "max_tokens": 6}


def chunks(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_streamed_chat_adds_up_to_the_whole_answer(ask):
    body = {"messages": TALK, "logprobs": True, "top_logprobs": 2, **GREEDY}
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
