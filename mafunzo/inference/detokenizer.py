"""From token ids to text as they come: whole characters only, and nothing that may turn out to be a stop string."""

from collections.abc import Sequence
from typing import Protocol

INCOMPLETE = "\ufffd"
LONGEST_CHARACTER_BYTES = 4


class Tokenizer(Protocol):
    """What the engine needs of a `transformers` tokenizer."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...


class Detokenizer:
    """The text of one reply. What `add` and `finish` return adds up to the tokenizer's own decoding of all ids.

    A character may need several tokens, and a token's text may depend on the one before: so the last few are decoded
    together, and an incomplete character at the end is kept back.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._returned = 0  # characters of the window's text that were returned already

    def add(self, token_id: int) -> str:
        """Return the text that is certain now."""
        self._window.append(token_id)
        text = self._decode(self._window)
        certain = len(text) - min(len(text) - len(text.rstrip(INCOMPLETE)), LONGEST_CHARACTER_BYTES - 1)
        new = text[self._returned : certain]
        self._returned = max(self._returned, certain)
        if certain == len(text) and len(self._window) > 1:
            self._shorten()
        return new

    def finish(self) -> str:
        """Return what was kept back."""
        new = self._decode(self._window)[self._returned :]
        self._returned += len(new)
        return new

    def _shorten(self) -> None:
        """Keep one token of context, if it is text by itself and not a part of a character."""
        alone = self._decode(self._window[-1:])
        if alone and INCOMPLETE not in alone:
            self._window, self._returned = self._window[-1:], len(alone)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)


class StopStrings:
    """Keeps back text that may be the beginning of a stop string, and cuts at the first that is complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched: str | None = None

    def add(self, text: str) -> str:
        """Return the text that is before any stop string for certain; `matched` is set once one is complete."""
        assert self.matched is None
        self._held += text
        hits = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if hits:
            at, self.matched = min(hits, key=lambda hit: hit[0] + len(hit[1]))  # however the text was cut into pieces
            certain, self._held = self._held[:at], ""
            return certain
        kept = max((self._overlap(stop) for stop in self._stops), default=0)
        certain, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return certain

    def finish(self) -> str:
        """Return what was kept back."""
        rest, self._held = self._held, ""
        return rest

    def _overlap(self, stop: str) -> int:
        """Return the length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
