"""A single token as text and as bytes, for reports of log-probabilities."""

import re
from functools import lru_cache
from typing import Any

INCOMPLETE = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


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
