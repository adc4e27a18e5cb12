"""Tests of `mafunzo.errors`."""

import pytest

from mafunzo import errors
from mafunzo.errors import Conflict, Faults, InvalidFile, InvalidParameter


def test_codes_are_unique_and_every_family_has_its_exit_code():
    classes = list(errors.family())
    assert len({cls.code for cls in classes}) == len(classes)
    expected = {errors.UsageError: 2, errors.RefusedError: 3, errors.FailedError: 1}
    for root, exit_code in expected.items():
        assert {cls.exit_code for cls in errors.family(root)} == {exit_code}


@pytest.mark.parametrize("cls", list(errors.family()), ids=lambda cls: cls.code)
def test_an_error_survives_the_way_between_processes(cls):
    back = errors.from_record(cls("what, where, what to do", ["one", "two"]).record, errors.FailedError(""))
    assert type(back) is cls
    assert str(back) == "what, where, what to do\n  - one\n  - two"


def test_an_unknown_code_is_a_failure():
    record = {"code": "of a later version", "message": "text"}
    assert type(errors.from_record(record, Conflict(""))) is errors.FailedError


def test_what_a_record_leaves_out_is_as_the_reader_says():
    back = errors.from_record({"faults": None}, Conflict("It is there."))
    assert (type(back), str(back)) == (Conflict, "It is there.")
    assert type(errors.from_record(None, Conflict("It is there."))) is Conflict


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("chta", " Did you mean chat?", id="a typing error"),
        pytest.param("CHAT", " Did you mean chat?", id="another case"),
        pytest.param("endpoint", "", id="nothing like it"),
    ],
)
def test_what_looks_like_a_name_is_offered(name: str, hint: str) -> None:
    assert errors.did_you_mean(name, ["chat", "models"]) == hint


def test_several_names_are_offered_the_nearest_first() -> None:
    assert errors.did_you_mean("blue1", ["red", "blue", "blue-2"], 3) == " Did you mean blue or blue-2?"


def _refuse(*faults: str) -> str:
    raise InvalidParameter("It can't be used.", faults)


def test_faults_are_collected_each_once_and_told_at_once() -> None:
    faults = Faults("step 'train': ")
    assert not faults
    faults.add("rows is missing.", "", "rows is missing.")
    assert faults.attempt(lambda: 3, None) == 3
    assert faults.attempt(lambda: _refuse("lora_r is -1.", "seed is 'x'."), "default") == "default"
    assert faults.attempt(_refuse, None) is None
    expected = ["rows is missing.", "lora_r is -1.", "seed is 'x'.", "It can't be used."]
    assert list(faults) == [f"step 'train': {text}" for text in expected] and len(faults) == 4
    with pytest.raises(InvalidFile, match="The job can't be planned") as refused:
        faults.require_none("The job can't be planned.", InvalidFile)
    assert refused.value.faults == tuple(faults)


def test_no_faults_raise_nothing_and_other_errors_pass_through() -> None:
    faults = Faults()
    faults.require_none("unused")
    with pytest.raises(Conflict):
        faults.attempt(lambda: (_ for _ in ()).throw(Conflict("later")), None)


@pytest.mark.parametrize("cls", list(errors.family()), ids=lambda cls: cls.code)
def test_the_status_of_an_error_fits_its_family(cls):
    is_of_the_caller = issubclass(cls, errors.UsageError | errors.RefusedError)
    assert (400 <= cls.status < 500) if is_of_the_caller else (500 <= cls.status < 600)


def test_the_status_table_is_this_one():
    special = {cls.code: cls.status for cls in errors.family() if cls.status not in (400, 409, 500)}
    assert special == {
        "unauthorized": 401,
        "forbidden": 403,
        "overwrite_forbidden": 403,
        "not_found": 404,
        "container_not_found": 404,
        "response_not_found": 404,
        "precondition_failed": 412,
        "rate_limit_exceeded": 429,
        "client_gone": 499,
        "worker_failed": 502,
        "out_of_memory": 503,
        "unavailable": 503,
        "unreachable": 503,
        "timed_out": 504,
        "storage_full": 507,
    }


def test_clients_and_stored_records_know_these_codes():
    codes = """
        artifact_corrupt blob_exists blocks_missing client_gone conflict container_not_found
        context_length_exceeded error failed forbidden gate_not_passed home_in_use
        invalid_data invalid_file invalid_parameter job_canceled job_failed missing_extra
        newer_home not_found not_supported out_of_memory overwrite_forbidden peer_lost port_in_use
        precondition_failed previous_response_not_found rate_limit_exceeded refused response_not_found server_failed
        serving_mismatch step_failed
        storage_full timed_out unauthorized unavailable unreachable unsafe_model
        usage version_taken worker_failed
    """
    own = {cls.code for cls in errors.family() if cls.__module__ == errors.__name__}  # a way in has some of its own
    assert own == set(codes.split())
