"""OpenAI's text completions, read and written."""

from typing import Any

import pytest

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.chat import Heading, TokenLogprob, Usage
from mafunzo.protocol.completions import Choice, completion, completion_request_from_dict

HEADING = Heading("cmpl-1", 1700000000, "chat")
TOKEN = TokenLogprob("é", "é".encode(), -0.5, (TokenLogprob("e", b"e", -1.0),))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        pytest.param("Hi", ("Hi",), id="text"),
        pytest.param([1, 2], ((1, 2),), id="token ids"),
        pytest.param(["a", "b"], ("a", "b"), id="texts"),
        pytest.param([[1], [2, 3]], ((1,), (2, 3)), id="several lists of token ids"),
    ],
)
def test_a_prompt_may_be_text_or_token_ids(prompt: object, expected: object) -> None:
    assert completion_request_from_dict({"prompt": prompt}).prompts == expected


def test_scoring_a_prompt_needs_echo() -> None:
    request = completion_request_from_dict({"prompt": [1, 2], "max_tokens": 0, "echo": True, "logprobs": 1})
    assert (request.options.max_tokens, request.options.logprobs, request.is_echo) == (0, 1, True)
    with pytest.raises(InvalidParameter, match="needs echo"):
        completion_request_from_dict({"prompt": "a", "max_tokens": 0})


def test_tokens_may_be_named_by_their_ids_where_log_probabilities_name_them() -> None:
    body = {"prompt": "a", "return_tokens_as_token_ids": True}
    assert completion_request_from_dict(body | {"logprobs": 0}).names_tokens_by_id
    assert not completion_request_from_dict({"prompt": "a", "logprobs": 0}).names_tokens_by_id
    with pytest.raises(InvalidParameter, match="return_tokens_as_token_ids needs logprobs"):
        completion_request_from_dict(body)


def test_several_prompts_may_be_streamed_and_have_several_answers() -> None:
    request = completion_request_from_dict({"prompt": ["a", "b"], "n": 2, "best_of": 2, "stream": True})
    assert (request.prompts, request.n, request.is_stream) == (("a", "b"), 2, True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param({}, "prompt", id="no prompt"),
        pytest.param({"prompt": []}, "prompt", id="empty list"),
        pytest.param({"prompt": [1, "a"]}, "prompt", id="mixed"),
        pytest.param({"prompt": [[]]}, "prompt", id="an empty one"),
        pytest.param({"prompt": "a", "n": 0}, "n", id="n"),
        pytest.param({"prompt": "a", "best_of": 2}, "best_of", id="best_of"),
        pytest.param({"prompt": "a", "suffix": "b"}, "suffix", id="suffix"),
        pytest.param({"prompt": "a", "logprobs": 21}, "logprobs", id="logprobs"),
        pytest.param({"prompt": "a", "stream": True, "echo": True}, "stream", id="streamed echo"),
        pytest.param({"prompt": "a", "chat": 1}, "chat", id="unknown"),
    ],
)
def test_what_is_wrong_with_a_text_completion_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as excinfo:
        completion_request_from_dict(body)
    assert excinfo.value.param == param


def test_a_text_completion_is_what_the_sdk_reads() -> None:
    from openai.types import Completion

    choice = Choice("Hé", (4, 5), ("H", "é"), (None, TOKEN), "stop", (0, 1))
    # As the SDK builds it, which takes the null of the first token that its type doesn't mention.
    completion_object = Completion.construct(**completion(HEADING, [choice], Usage(2, 0)))
    logprobs = completion_object.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs == [None, -0.5]
    assert logprobs.top_logprobs == [None, {"e": -1.0, "é": -0.5}]
    assert logprobs.text_offset == [0, 1]
    assert logprobs.token_ids == [4, 5]  # type: ignore[attr-defined]
