"""What is said of the addresses of OpenAI's API that aren't answered."""

import pytest

from mafunzo.protocol.paths import ANSWERED, UNSUPPORTED, unknown_address


@pytest.mark.parametrize("word", UNSUPPORTED)
def test_an_address_that_is_not_offered_says_why_and_what_there_is(word: str) -> None:
    for path in (word, f"{word}/", f"{word}/x_1/more"):
        message = unknown_address("POST", path)
        assert message.startswith(f"POST /v1/{path} isn't offered: {UNSUPPORTED[word]}. ")
        assert all(address in message for address in ANSWERED)


@pytest.mark.parametrize("path", ["", "nothing", "embedding", "chat"])
def test_any_other_address_does_not_exist(path: str) -> None:
    assert unknown_address("GET", path).startswith(f"GET /v1/{path} doesn't exist here. There are POST /v1/chat/")
