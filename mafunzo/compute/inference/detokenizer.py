"""Token ids to text: the streaming detokenizer, in whole characters only, which holds back what may become a stop string;
and a single token as text and bytes, for reports of log-probabilities."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

INCOMPLETE = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
LONGEST_CHARACTER_BYTES = 4


class Tokenizer(Protocol):
    """What the engine needs of a `transformers` tokenizer."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...


class Detokenizer:
    """Detokenizes one reply. What `add` and `finish` return adds up to the tokenizer's own decoding of all ids.

    A UTF-8 character may take several tokens, and a token's text may depend on the one before: so the last few are decoded
    together, and an incomplete character at the end is held back.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._window: list[int] = []
        self._offset = 0  # how many characters of the window's text were returned

    def add(self, token_id: int) -> str:
        """Return the new text that no later token can change."""
        self._window.append(token_id)
        text = self._decode(self._window)
        end = len(text) - min(len(text) - len(text.rstrip(INCOMPLETE)), LONGEST_CHARACTER_BYTES - 1)
        new = text[self._offset : end]
        self._offset = max(self._offset, end)
        if end == len(text) and len(self._window) > 1:
            self._shorten()
        return new

    def finish(self) -> str:
        """Return what was kept back."""
        new = self._decode(self._window)[self._offset :]
        self._offset += len(new)
        return new

    def _shorten(self) -> None:
        """Keep one token of context, if it is text by itself and not a part of a character."""
        text = self._decode(self._window[-1:])
        if text and INCOMPLETE not in text:
            self._window, self._offset = self._window[-1:], len(text)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens)


class TokenOffsets:
    """Where in a text, which begins at `start`, each token of it begins, in characters.

    A special token that the text leaves out has no width, as the first pieces of a character that takes several tokens.
    """

    def __init__(self, tokenizer: Tokenizer, start: int = 0, skip_special_tokens: bool = True) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens)
        self.end = start

    def add(self, token_ids: Sequence[int], most: int | None = None) -> list[int]:
        """Return the offset of each token, `most` at most: a text that is cut before a stop string ends there."""
        offsets = []
        for token_id in token_ids:
            offsets.append(self.end if most is None else min(self.end, most))
            self.end += len(self._detokenizer.add(token_id))
        return offsets


class StopStrings:
    """Holds back text that may begin a stop string, and cuts the text at the first that is complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._buffer = ""
        self.match: str | None = None

    def add(self, text: str) -> str:
        """Return the text that can't be part of a stop string; `match` is set once one is complete."""
        assert self.match is None
        self._buffer += text
        hits = [(at, stop) for stop in self._stops if (at := self._buffer.find(stop)) >= 0]
        if hits:
            at, self.match = min(hits, key=lambda hit: hit[0] + len(hit[1]))  # however the text was cut into pieces
            safe_text, self._buffer = self._buffer[:at], ""
            return safe_text
        overlap = max((self._overlap(stop) for stop in self._stops), default=0)
        safe_text, self._buffer = (
            self._buffer[: len(self._buffer) - overlap],
            self._buffer[len(self._buffer) - overlap :],
        )
        return safe_text

    def finish(self) -> str:
        """Return what was kept back."""
        text, self._buffer = self._buffer, ""
        return text

    def _overlap(self, stop: str) -> int:
        """Return the length of the longest suffix of the buffer that is a prefix of `stop`."""
        longest = min(len(stop) - 1, len(self._buffer))
        return next((n for n in range(longest, 0, -1) if self._buffer.endswith(stop[:n])), 0)


def token_text(tokenizer: Any, token_id: int) -> tuple[str, bytes]:
    """Return a token's text and bytes. A part of a character has no text of its own: it is shown as `bytes:\\xe2\\x82`."""
    text = str(tokenizer.decode([token_id], skip_special_tokens=False))
    piece = str(tokenizer.convert_ids_to_tokens(token_id) or "")
    if piece.startswith("\u2581") and not text.startswith(
        " "
    ):  # SentencePiece's space, which decoding strips at the start
        text = " " + text
    if INCOMPLETE not in text:
        return text, text.encode()
    raw = _piece_bytes(piece)
    if raw is None:
        return text, text.encode()
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw


def _piece_bytes(piece: str) -> bytes | None:
    """Return the bytes that a vocabulary entry stands for, as byte-level BPE and byte fallback write them."""
    match = _BYTE_TOKEN.fullmatch(piece)
    if match:
        return bytes([int(match[1], 16)])
    table = _byte_by_character()
    return bytes(table[character] for character in piece) if all(c in table for c in piece) else None


@lru_cache(maxsize=1)
def _byte_by_character() -> dict[str, int]:
    """Return GPT-2's byte-level table: a printable byte is itself, any other a character from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(unprintable)}
