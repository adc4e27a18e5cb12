"""Errors in OpenAI's shape, which its SDKs turn into exceptions. The HTTP status is the error's own."""

from typing import Any

from mafunzo.errors import MafunzoError, RateLimitExceeded
from mafunzo.protocol.body import printable

CODES: dict[str, str] = {"unauthorized": "invalid_api_key", "not_found": "model_not_found"}
"""Our codes that have another name in OpenAI's API."""


def error_body(error: MafunzoError, param: str | None = None) -> dict[str, Any]:
    """Return `{"error": {...}}`; `param` names the part of the request that is at fault."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    if isinstance(error, RateLimitExceeded):
        kind = "requests"  # OpenAI's name of a request rate limit; the other kind is tokens
    return refusal_body(str(error), CODES.get(error.code, error.code), kind, param)


def refusal_body(
    message: str, code: str, kind: str = "invalid_request_error", param: str | None = None
) -> dict[str, Any]:
    """Return an error that isn't one of the tree, because it concerns HTTP alone."""
    param = None if param is None else printable(param)
    return {"error": {"message": printable(message), "type": kind, "param": param, "code": code}}
