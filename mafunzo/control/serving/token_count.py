"""How many tokens answers took, as they pass: what their `usage` says; a stream without one counts a token for each event."""

import json
from collections.abc import AsyncIterator, Mapping

from mafunzo.control.serving.answer import Answer, PassedAnswer
from mafunzo.protocol.token_estimate import BYTES_PER_TOKEN

EVENT = b"data: {"
TAIL_BYTES = 4096
"""A stream's `usage` stands in its last events."""


class TokenCount:
    """The tokens of an exchange's answers."""

    def __init__(self) -> None:
        self.total = 0

    def counted(self, answer: Answer, body: bytes) -> Answer:
        """Return an answer to `body` whose tokens are counted while it is read."""
        return _Counted(answer, self, len(body) // BYTES_PER_TOKEN)


class _Counted(PassedAnswer):
    def __init__(self, answer: Answer, count: TokenCount, prompt_tokens: int) -> None:
        super().__init__(answer)
        self._count, self._prompt_tokens = count, prompt_tokens

    async def read(self) -> bytes:
        content = await self._answer.read()
        self._count.total += _usage(content) or 0
        return content

    async def chunks(self) -> AsyncIterator[bytes]:
        tokens, tail = self._prompt_tokens, b""
        self._count.total += tokens
        async for chunk in self._answer.chunks():
            events = (tail[-len(EVENT) + 1 :] + chunk).count(EVENT)
            tokens += events
            self._count.total += events  # at once: a client that leaves pays for what it got
            tail = (tail + chunk)[-TAIL_BYTES:]
            yield chunk
        usages = [_usage(line.removeprefix(b"data: ")) for line in tail.splitlines() if line.startswith(EVENT)]
        self._count.total += next(filter(None, reversed(usages)), tokens) - tokens


def _usage(content: bytes) -> int | None:
    """Return the tokens that an answer says it took, or None."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    usage = body.get("usage") if isinstance(body, Mapping) else None
    total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    return total if isinstance(total, int) else None
