import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mafunzo.control.store.codec import decode, encode
from mafunzo.entities.job import ArtifactInput, JobStatus, LiteralInput, Resources, Step, StepOutputInput, StepSpec
from mafunzo.errors import NewerHome

literals = st.one_of(
    st.text(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)
)
inputs = st.one_of(
    st.builds(LiteralInput, literals),
    st.builds(ArtifactInput, st.text(), st.text()),
    st.builds(StepOutputInput, st.text(), st.text()),
)
json_values = st.recursive(
    st.none() | literals, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
moments = st.datetimes(timezones=st.just(UTC))
specs = st.builds(
    StepSpec,
    *[st.text()] * 4,
    inputs=st.dictionaries(st.text(), inputs, max_size=4),
    outputs=st.dictionaries(st.text(), st.text(), max_size=2),
    resources=st.builds(Resources, st.integers(0, 64), st.integers(0, 8)),
    code_artifact=st.none() | st.text(),
)
steps = st.builds(
    Step,
    job=st.text(),
    spec=specs,
    error=st.none() | st.dictionaries(st.text(), json_values, max_size=3),
    started_at=st.none() | moments,
    ended_at=st.none() | moments,
)


@given(steps)
def test_a_step_comes_back_from_json_as_it_was(step: Step) -> None:
    back = decode(Step, json.loads(json.dumps(encode(step))))
    assert back == step
    given_types = {name: type(value) for name, value in step.spec.inputs.items()}
    assert {name: type(value) for name, value in back.spec.inputs.items()} == given_types


def test_a_moment_comes_back_as_utc() -> None:
    @dataclass(frozen=True)
    class Moment:
        at: datetime

    noon_elsewhere = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    back = decode(Moment, encode(Moment(noon_elsewhere)))
    assert (back.at, back.at.tzinfo) == (noon_elsewhere, UTC)


def test_a_field_that_is_missing_takes_its_default() -> None:
    assert decode(Resources, {"cpus": 3}) == Resources(cpus=3)


def test_a_field_from_a_newer_version_is_refused_by_name() -> None:
    with pytest.raises(NewerHome, match="A stored Resources has the field quantum_bits"):
        decode(Resources, {"cpus": 3, "quantum_bits": 1})


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", float("nan"), float("inf")])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="is no JSON value"):
        encode({"a": [value]})


def test_an_enum_and_a_mapping_come_back_by_their_hints() -> None:
    @dataclass(frozen=True)
    class Holder:
        status: JobStatus
        anything: Mapping[str, Any]
        pairs: tuple[Resources, ...]

    holder = Holder(JobStatus.RUNNING, {"list": [1, {"a": None}]}, (Resources(2), Resources(3)))
    back = decode(Holder, json.loads(json.dumps(encode(holder))))
    assert back == holder and back.status is JobStatus.RUNNING
