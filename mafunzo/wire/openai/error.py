"""Errors in OpenAI's dialect: the HTTP status of each class, and the JSON that its SDKs turn into exceptions."""

from typing import Any

from mafunzo import errors
from mafunzo.errors import MafunzoError

STATUS: dict[type[MafunzoError], int] = {
    errors.MafunzoError: 500,
    errors.UsageError: 400,
    errors.NotFound: 404,
    errors.RefusedError: 409,
    errors.NotSupported: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.FailedError: 500,
    errors.StorageFull: 507,
    errors.Unavailable: 503,
    errors.Unreachable: 503,
    errors.WorkerFailed: 502,
    errors.TimedOut: 504,
    errors.OutOfMemory: 503,
}
"""A class that isn't here has the status of its nearest ancestor."""

CODES: dict[str, str] = {"unauthorized": "invalid_api_key", "not_found": "model_not_found"}
"""Our codes that OpenAI's SDKs and users know by another name."""


def status_of(error: MafunzoError) -> int:
    """Return the HTTP status of an error."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_body(error: MafunzoError, param: str | None = None) -> dict[str, Any]:
    """Return `{"error": {...}}`; `param` names the part of the request that is at fault."""
    kind = "invalid_request_error" if status_of(error) < 500 else "server_error"
    return {
        "error": {
            "message": str(error),
            "type": kind,
            "param": param,
            "code": CODES.get(error.code, error.code),
        }
    }
