"""Tests of `mafunzo.entities.job`: which states are final, and where an output is written."""

import pytest

from mafunzo.entities.job import Destination, JobStatus, LiteralInput, StepOutputInput, StepSpec, StepStatus


def test_states_are_final_or_not() -> None:
    assert {status for status in JobStatus if not status.is_terminal} == {JobStatus.QUEUED, JobStatus.RUNNING}
    assert {status for status in StepStatus if not status.is_terminal} == {StepStatus.WAITING, StepStatus.RUNNING}
    assert {status for status in StepStatus if status.is_done} == {StepStatus.COMPLETED, StepStatus.CACHED}


@pytest.mark.parametrize(
    ("type", "destination", "path"),
    [
        pytest.param("uri_folder", None, "out", id="a folder"),
        pytest.param("uri_file", None, "out", id="a file"),
        pytest.param("uri_file", Destination("uri_file", path="a/b.csv"), "out/b.csv", id="a file that goes to a path"),
        pytest.param("uri_file", Destination("uri_file", "rows"), "out", id="a file that becomes an asset"),
        pytest.param("uri_folder", Destination("uri_folder", path="a/b"), "out", id="a folder that goes to a path"),
    ],
)
def test_an_output_is_written_under_its_name(type: str, destination: Destination | None, path: str) -> None:
    destinations = {"out": destination} if destination else {}
    assert StepSpec("s", "c:1", "", "", outputs={"out": type}, destinations=destinations).output_path("out") == path


def test_the_literals_of_a_step_are_its_inputs_that_are_values() -> None:
    spec = StepSpec("s", "c:1", "", "", inputs={"rate": LiteralInput(0.1), "rows": StepOutputInput("a", "b")})
    assert spec.literals == {"rate": 0.1}
