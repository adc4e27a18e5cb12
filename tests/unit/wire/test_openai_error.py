"""Every error has a status in OpenAI's dialect, and the shape that its SDKs read."""

import pytest

from mafunzo import errors
from mafunzo.wire.openai.error import error_body, status_of


@pytest.mark.parametrize("kind", sorted(errors.family(), key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_each_error_s_status_fits_its_family(kind: type[errors.MafunzoError]) -> None:
    status = status_of(kind("broken"))
    is_of_the_asker = issubclass(kind, errors.UsageError | errors.RefusedError)
    assert (400 <= status < 500) if is_of_the_asker else (500 <= status < 600)


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
