"""A worker's answer under an id of ours, whole or in the chunks of a stream; nothing else of it changes."""

import json
import re
from collections.abc import AsyncIterator

from mafunzo.control.serving.answer import Answer, PassedAnswer

DATA = b"data: "
_FIRST_ID = re.compile(rb'\A(\s*\{\s*"id"\s*:\s*")(?:[^"\\]|\\.)*"')
"""Workers write the id first, so that no chunk needs to be parsed."""


class NamedAnswer(PassedAnswer):
    """An answer whose id is another one in each of its parts."""

    def __init__(self, answer: Answer, answer_id: str) -> None:
        super().__init__(answer)
        self._id = answer_id

    async def read(self) -> bytes:
        return with_id(await self._answer.read(), self._id)

    async def chunks(self) -> AsyncIterator[bytes]:
        rest = b""  # a line that hasn't ended yet
        async for chunk in self._answer.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            if lines:
                yield b"".join(self._line(line) + b"\n" for line in lines)
        if rest:
            yield self._line(rest)

    def _line(self, line: bytes) -> bytes:
        return DATA + with_id(line.removeprefix(DATA), self._id) if line.startswith(DATA) else line


def with_id(body: bytes, answer_id: str) -> bytes:
    """Return an answer in JSON with another id; what is no answer stays as it is."""
    named, count = _FIRST_ID.subn(rb"\g<1>" + answer_id.encode() + b'"', body, count=1)
    if count:
        return named
    try:
        content = json.loads(body)
    except ValueError:
        return body
    if not isinstance(content, dict) or "choices" not in content:
        return body
    return json.dumps({**content, "id": answer_id}, ensure_ascii=False, separators=(",", ":")).encode()
