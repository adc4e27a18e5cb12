"""An answer under an id of ours: whole, and in a stream that is cut anywhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from mafunzo.control.serving.answer import Answer
from mafunzo.control.serving.named_answer import NamedAnswer, with_id


class Given:
    """An answer that is there already, in pieces."""

    status, outcome, is_stream = 200, 200, True

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.headers: dict[str, str] = {}
        self._pieces = pieces

    async def read(self) -> bytes:
        return b"".join(self._pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    def close(self) -> None:
        pass


def streamed(pieces: Sequence[bytes]) -> bytes:
    async def read() -> bytes:
        return b"".join([chunk async for chunk in NamedAnswer(cast(Answer, Given(pieces)), "ours").chunks()])

    return asyncio.run(read())


def chunk(text: str, **more: Any) -> bytes:
    return b"data: " + json.dumps({**more, "choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        pytest.param(b'{"id":"a","choices":[]}', b'{"id":"ours","choices":[]}', id="the id comes first"),
        pytest.param(b'{ "id" : "a\\"b", "x": 1}', b'{ "id" : "ours", "x": 1}', id="with spaces and quotes"),
        pytest.param(b'{"choices": [], "id": "a"}', b'{"choices":[],"id":"ours"}', id="it comes later"),
        pytest.param(b'{"choices": []}', b'{"choices":[],"id":"ours"}', id="there is none"),
        pytest.param(b'{"error": {"id": "a"}}', b'{"error": {"id": "a"}}', id="an error"),
        pytest.param(b"[1]", b"[1]", id="no object"),
        pytest.param(b"[DONE]", b"[DONE]", id="no JSON"),
    ],
)
def test_only_the_id_of_an_answer_changes(body: bytes, named: bytes) -> None:
    assert with_id(body, "ours") == named


def test_a_stream_has_one_id_wherever_it_is_cut() -> None:
    said = 'he said {"id":"a"}'
    stream = b": keep-alive\n\n" + chunk("hi", id="a") + chunk(said, id="a") + chunk("", id="a") + b"data: [DONE]\n\n"
    wanted = stream.replace(b'{"id": "a"', b'{"id": "ours"')
    assert wanted.count(b"ours") == 3
    for size in (1, 2, 7, 40, len(stream)):
        assert streamed([stream[at : at + size] for at in range(0, len(stream), size)]) == wanted


def test_a_stream_that_breaks_off_is_passed_to_its_end() -> None:
    assert streamed([b"data: [DO"]) == b"data: [DO"
