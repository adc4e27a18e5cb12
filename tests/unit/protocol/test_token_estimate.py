"""About how many tokens a request may take."""

import json
from typing import Any

import pytest

from mafunzo.protocol.token_estimate import tokens_asked


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        pytest.param({}, 0, id="no length said"),
        pytest.param({"max_tokens": 100}, 100, id="an answer"),
        pytest.param({"max_tokens": 100, "max_completion_tokens": 50}, 50, id="the newer name"),
        pytest.param({"max_tokens": 100, "n": 3}, 300, id="several answers"),
        pytest.param({"max_tokens": None, "n": "x"}, 0, id="nonsense, which the worker refuses"),
    ],
)
def test_a_request_may_take_its_text_and_its_longest_answers(fields: dict[str, Any], answer: int) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 400}], **fields}).encode()
    assert tokens_asked(body) == len(body) // 4 + answer


@pytest.mark.parametrize("body", [b"{", b"[1]", b"1"])
def test_what_is_no_request_takes_nothing(body: bytes) -> None:
    assert tokens_asked(body) == 0
