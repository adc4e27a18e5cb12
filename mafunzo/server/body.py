"""Taking in a request's body, up to a limit."""

from starlette.requests import Request

from mafunzo.errors import InvalidParameter


async def limited_body(request: Request, most_bytes: int) -> bytes:
    """Return a request's body; raises `InvalidParameter` as soon as it is larger than `most_bytes`."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most_bytes:
            raise InvalidParameter(f"The request's body is larger than {most_bytes // 2**20} MB.")
        chunks.append(chunk)
    return b"".join(chunks)
