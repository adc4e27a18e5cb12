"""A step's log, which may be of any size, or one endless line: read in blocks of whole lines, never whole.

A line longer than `LINE_BYTES` is cut into pieces, each of which counts as a line. Where it is cut depends on its bytes only,
so that whoever reads it in other blocks, or while it grows, sees the same lines.
"""

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from mafunzo.tracking.regular_file import open_regular

BLOCK_BYTES = 256 * 1024
LINE_BYTES = 64 * 1024


def read_blocks(
    path: Path, start: int = 0, end: int | None = None, is_last: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of whole lines, each with its offset, of a log from the line that begins at `start`.

    end: where to stop, by default where the file ends now. is_last: nothing more will be written, so that what stands after the
    last line feed is a line too. A log that isn't there has no blocks.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    with file:
        size = os.fstat(file.fileno()).st_size
        end = size if end is None else min(end, size)
        file.seek(start)
        rest = b""
        while read := file.read(max(0, min(BLOCK_BYTES, end - start - len(rest)))):
            body = rest + read
            whole = _whole_bytes(body)
            if whole:
                yield start, body[:whole]
            start, rest = start + whole, body[whole:]
        if rest and is_last:
            yield start, rest


def lines_of(body: bytes) -> Iterator[tuple[int, str]]:
    """Yield the lines of a block as text, each with a number that is its own among all of the block."""
    start = 0
    while start < len(body):
        feed = body.find(b"\n", start)
        end = len(body) if feed < 0 else feed
        end = _piece_end(body, start) if end - start > LINE_BYTES else end + (feed >= 0)
        texts = body[start:end].decode("utf-8", "replace").splitlines()
        yield from ((start + number, text) for number, text in enumerate(texts))
        start = end


def tail(path: Path, count: int) -> list[str]:
    """Return the last `count` lines of a log, of which only its end is read."""
    blocks = read_blocks(path, start_of_last(path, count), is_last=True)
    return list(deque((text for _, body in blocks for _, text in lines_of(body)), maxlen=max(0, count)))


def start_of_last(path: Path, count: int) -> int:
    """Return where the last `count` lines of a log begin, by line feeds; 0 where it has fewer.

    They are searched in its last `count` times `LINE_BYTES` only; where some are longer than that, it is within one.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return 0
    with file:
        if count <= 0:
            return os.fstat(file.fileno()).st_size
        end = size = os.fstat(file.fileno()).st_size
        least = max(0, size - count * LINE_BYTES)
        feeds = count
        while end > least:
            start = max(least, end - BLOCK_BYTES)
            file.seek(start)
            body = file.read(end - start)
            at = len(body) - 1 if end == size else len(body)  # the feed at the very end ends the last line
            while (at := body.rfind(b"\n", 0, at)) >= 0:
                feeds -= 1
                if feeds <= 0:
                    return start + at + 1
            end = start
        return least and least + _continuation_bytes(body)


def _whole_bytes(body: bytes) -> int:
    """Return how many bytes of a block are whole lines, or pieces of one that is too long."""
    whole = body.rfind(b"\n") + 1
    while len(body) - whole > LINE_BYTES:
        whole = _piece_end(body, whole)
    return whole


def _piece_end(body: bytes, start: int) -> int:
    """Return where the piece ends that begins at `start`: not within a character, as far as it is UTF-8."""
    end = start + LINE_BYTES
    for at in range(end, end - 4, -1):
        if body[at] & 0xC0 != 0x80:
            return at
    return end


def _continuation_bytes(body: bytes) -> int:
    """Return how many bytes a block begins with that belong to a character before it."""
    return next((at for at in range(min(4, len(body))) if body[at] & 0xC0 != 0x80), 0)
