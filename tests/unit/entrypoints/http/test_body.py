"""Tests of `mafunzo.entrypoints.http.body`: how much of a request is taken in, and what of it is JSON."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request

from mafunzo.entrypoints.http.body import json_of, limited_body, limited_json
from mafunzo.errors import InvalidParameter


class Sender:
    """A request whose body comes in chunks; it counts those that were taken in."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks: Iterator[bytes] = iter(chunks)
        self._left = len(chunks)
        self.taken = 0

    @property
    def request(self) -> Request:
        return Request({"type": "http", "method": "POST", "headers": []}, self._receive)

    async def _receive(self) -> dict[str, Any]:
        self.taken += 1
        self._left -= 1
        return {"type": "http.request", "body": next(self._chunks, b""), "more_body": self._left > 0}


def test_a_body_that_comes_in_chunks_is_one() -> None:
    assert asyncio.run(limited_body(Sender(b"one ", b"two").request, 7)) == b"one two"


@pytest.mark.parametrize(
    ("most_bytes", "text"),
    [
        pytest.param(3, "The request's body is larger than 3 bytes.", id="bytes"),
        pytest.param(2 * 2**20, "The request's body is larger than 2 MB.", id="megabytes"),
    ],
)
def test_a_larger_body_is_refused_at_its_first_byte_too_many(most_bytes: int, text: str) -> None:
    sender = Sender(b"x" * most_bytes, b"x", b"never", b"read")
    with pytest.raises(InvalidParameter) as refusal:
        asyncio.run(limited_body(sender.request, most_bytes))
    assert refusal.value.message == text
    assert sender.taken == 2


@pytest.mark.parametrize(
    ("body", "value"),
    [
        pytest.param(b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}, id="an object"),
        pytest.param('"Größe"'.encode(), "Größe", id="text"),
    ],
)
def test_json_is_read(body: bytes, value: object) -> None:
    assert json_of(body) == value
    assert asyncio.run(limited_json(Sender(body).request, 100)) == value


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"{", "isn't JSON", id="cut off"),
        pytest.param(b"", "isn't JSON", id="empty"),
        pytest.param(b"\xff\xfe\xff", "isn't JSON", id="no text"),
        pytest.param(b'{"a": NaN}', "isn't JSON", id="NaN is no number of JSON's"),
        pytest.param(b"[-Infinity]", "isn't JSON", id="nor is infinity"),
        pytest.param(b"[1e999]", "isn't JSON", id="nor what becomes it"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="nested too deeply"),
    ],
)
def test_what_is_no_json_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        json_of(body)
