"""The header Range of a request (RFC 9110, section 14): one range of bytes of something whose size is known."""

import re

_RANGE = re.compile(r"bytes=(?P<first>\d{1,18})?-(?P<last>\d{1,18})?")


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return where the requested range begins and ends (exclusive), or None where none of it is there.

    Without a header, or with one that isn't one range of bytes, it is the whole.
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None or (match["first"] is None and match["last"] is None):
        return 0, size
    if match["first"] is None:
        last_bytes = int(match["last"])
        return (max(0, size - last_bytes), size) if last_bytes and size else None
    first = int(match["first"])
    if match["last"] is not None and int(match["last"]) < first:
        return 0, size
    end = size if match["last"] is None else min(size, int(match["last"]) + 1)
    return (first, end) if first < size else None
