"""Errors have the shape that OpenAI's SDKs read."""

from mafunzo import errors
from mafunzo.protocol.errors import error_body


def test_a_body_has_openai_s_shape_and_all_faults() -> None:
    body = error_body(errors.InvalidParameter("Two are wrong.", ["temperature is 9.", "n is 2."]), "temperature")
    assert body == {
        "error": {
            "message": "Two are wrong.\n  - temperature is 9.\n  - n is 2.",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_parameter",
        }
    }


def test_codes_that_openai_s_users_know_are_theirs() -> None:
    assert error_body(errors.Unauthorized("no"))["error"]["code"] == "invalid_api_key"
    assert error_body(errors.NotFound("no"))["error"]["code"] == "model_not_found"
    limit = error_body(errors.RateLimitExceeded("later"))["error"]
    assert (limit["type"], limit["code"]) == ("requests", "rate_limit_exceeded")
