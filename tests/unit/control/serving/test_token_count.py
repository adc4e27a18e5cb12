"""What answers took: as they say, else as their events tell."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence

from mafunzo.control.serving.token_count import TokenCount

EVENT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"total_tokens": 42}}\n\ndata: [DONE]\n\n'


class Given:
    """An answer that comes in these pieces."""

    status = outcome = 200
    headers: Mapping[str, str] = {}

    def __init__(self, pieces: Sequence[bytes], is_stream: bool = True) -> None:
        self.pieces, self.is_stream, self.is_closed = pieces, is_stream, False

    async def read(self) -> bytes:
        return b"".join(self.pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    def close(self) -> None:
        self.is_closed = True


def streamed(*pieces: bytes, body: bytes = b"x" * 40) -> int:
    count = TokenCount()

    async def work() -> None:
        assert [chunk async for chunk in count.counted(Given(pieces), body).chunks()] == [*pieces]

    asyncio.run(work())
    return count.total


def whole(content: bytes) -> int:
    count = TokenCount()
    assert asyncio.run(count.counted(Given([content], is_stream=False), b"").read()) == content
    return count.total


def test_an_answer_says_what_it_took() -> None:
    assert whole(json.dumps({"choices": [], "usage": {"total_tokens": 7}}).encode()) == 7
    assert (whole(b"{}"), whole(b"no JSON"), whole(b"[1]")) == (0, 0, 0)


def test_a_stream_that_was_asked_for_its_usage_says_what_it_took() -> None:
    assert streamed(EVENT, EVENT, USAGE) == 42


def test_any_other_stream_takes_a_token_an_event_and_its_prompt() -> None:
    assert streamed(EVENT, b": keep-alive\n\n", EVENT, b"data: [DONE]\n\n") == 10 + 2


def test_a_client_that_leaves_pays_for_what_it_got() -> None:
    count = TokenCount()

    async def work() -> None:
        async for _ in count.counted(Given([EVENT, EVENT, EVENT]), b"x" * 40).chunks():
            if count.total == 10 + 2:
                return

    asyncio.run(work())
    assert count.total == 10 + 2


def test_an_event_that_comes_in_pieces_counts_once() -> None:
    content = EVENT * 3
    assert {streamed(content[:at], content[at:]) for at in range(1, len(content))} == {10 + 3}


def test_what_an_answer_has_besides_is_left_as_it_is() -> None:
    given = Given([EVENT])
    answer = TokenCount().counted(given, b"")
    answer.outcome = 499
    answer.close()
    assert (given.outcome, given.is_closed, answer.status, answer.is_stream) == (499, True, 200, True)
