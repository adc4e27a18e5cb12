"""Tests of `mafunzo.control.pipelines.binding`."""

from typing import Any

import pytest

from mafunzo.control.pipelines.binding import Broken, Sources, can_feed, check_inputs, filled, inputs_of, upstream_of
from mafunzo.entities.component import Component, Input, Node, NodeInput, Output
from mafunzo.entities.job import ArtifactInput, LiteralInput, StepInput, StepOutputInput
from mafunzo.errors import Faults

GIVEN: dict[str, Any] = {
    "s": "mid",
    "n": 3,
    "is_on": True,
    "g.h.n": 5,
    "folder": ArtifactInput("sha256:da7a"),
    "other": "${{parent.inputs.n}}",
}


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        pytest.param("plain", "plain", id="without bindings"),
        pytest.param("pre-${{parent.inputs.s}}-post", "pre-mid-post", id="text around it"),
        pytest.param("${{parent.inputs.s}}${{ parent.inputs.n }}", "mid3", id="several"),
        pytest.param("${{parent.inputs.is_on}}", "true", id="true"),
        pytest.param("lr${{parent.inputs.g.h.n}}", "lr5", id="of a group within a group"),
        pytest.param("a ${{parent.inputs.other}}", "a ${{parent.inputs.n}}", id="a value is taken as it is"),
    ],
)
def test_a_text_is_filled_with_what_is_given(text: str, whole: str) -> None:
    assert filled(text, GIVEN) == (whole, "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("a${{parent.inputs.iss_on}}", "but no input iss_on is given. Did you mean is_on?", id="unknown"),
        pytest.param("a${{parent.inputs.folder}}", "but folder is a file or folder, expected a value.", id="a folder"),
        pytest.param(
            "a${{parent.jobs.x.outputs.y}}",
            "but what a step writes is a file or folder, expected a value.",
            id="an output",
        ),
        pytest.param(
            "a${{inputs.s}}",
            "expected a value, ${{parent.inputs.<name>}} or ${{parent.jobs.<step>.outputs.<name>}}.",
            id="another form",
        ),
        pytest.param(
            "a${{parent.inputs.s",
            "expected a value, ${{parent.inputs.<name>}} or ${{parent.jobs.<step>.outputs.<name>}}.",
            id="left open",
        ),
    ],
)
def test_a_text_that_cannot_be_filled_is_told_with_its_first_fault(text: str, told: str) -> None:
    assert filled(text, GIVEN) == ("", f"is '{text}', {told}")


def test_the_inputs_of_a_text_are_named() -> None:
    assert inputs_of("${{parent.inputs.a.b}}-${{ parent.inputs.c }}-${{parent.jobs.d.outputs.e}}") == {"a.b", "c"}


ROWS = Input("rows", "uri_folder")
RATE = Input("rate", "number")
FOLDER = ArtifactInput("sha256:f0", "folder")
SOURCES = Sources(
    inputs={"rate": RATE, "rows": ROWS, "optional": Input("optional", "number", is_optional=True)},
    values={"rate": 0.5, "rows": FOLDER},
    outputs={"prepare": {"rows": Output("rows", "uri_folder"), "file": Output("file", "uri_file")}, "unknown": None},
)


@pytest.mark.parametrize(
    ("declared", "written", "expected"),
    [
        pytest.param(RATE, "0.25", LiteralInput(0.25), id="a value"),
        pytest.param(RATE, "${{ parent.inputs.rate }}", LiteralInput(0.5), id="an input of the job"),
        pytest.param(RATE, "0.${{parent.inputs.rate}}", Broken(), id="a text that becomes no number"),
        pytest.param(RATE, "${{parent.inputs.optional}}", None, id="an input of the job without a value"),
        pytest.param(RATE, None, None, id="nothing"),
        pytest.param(ROWS, "${{parent.inputs.rows}}", FOLDER, id="a folder of the job"),
        pytest.param(ROWS, "${{parent.jobs.prepare.outputs.rows}}", StepOutputInput("prepare", "rows"), id="a step"),
        pytest.param(ROWS, "${{parent.jobs.unknown.outputs.rows}}", Broken(), id="a step that has a fault already"),
    ],
)
def test_an_input_is_bound_to_what_is_written(
    declared: Input, written: NodeInput | None, expected: StepInput | Broken | None
) -> None:
    faults = Faults()
    assert SOURCES.bind(declared, written, faults) == expected
    assert bool(faults) is (written == "0.${{parent.inputs.rate}}")


@pytest.mark.parametrize(
    ("declared", "written", "fault"),
    [
        (ROWS, "${{parent.inputs.rate}}", "rows takes a uri_folder, but the job's input rate is a number."),
        (ROWS, "${{parent.inputs.row}}", "rows comes from the job's input row, but row is not an input of it. Did you mean rows?"),
        (ROWS, "${{parent.jobs.prepar.outputs.x}}",
         "rows comes from step 'prepar', which the job doesn't have. Did you mean prepare?"),
        (ROWS, "${{parent.jobs.prepare.outputs.row}}",
         "rows comes from output row of step 'prepare', which has none of that name. Did you mean rows?"),
        (ROWS, "${{parent.jobs.prepare.outputs.file}}",
         "rows takes a uri_folder, but output file of step 'prepare' is a uri_file."),
    ],
)  # fmt: skip
def test_what_cannot_feed_an_input_is_told(declared: Input, written: str, fault: str) -> None:
    faults = Faults()
    assert SOURCES.bind(declared, written, faults) == Broken()
    assert list(faults) == [fault]


def test_values_feed_values_and_folders_what_takes_them() -> None:
    assert can_feed("integer", "string") and can_feed("mlflow_model", "custom_model")
    assert not can_feed("uri_folder", "mlflow_model") and not can_feed("uri_file", "string")


def test_an_input_has_its_default_and_is_given_once() -> None:
    inputs = {"rate": Input("rate", "number", default=0.5, aliases=("lr",)), "rows": ROWS}
    pipeline = Component("p", "1", "pipeline", inputs=inputs)
    faults = Faults()
    assert check_inputs(pipeline, {"rows": FOLDER}, faults) == {"rate": 0.5, "rows": FOLDER}
    assert not faults
    check_inputs(pipeline, {"rate": 1, "lr": 2, "speed": 3}, faults)
    assert [fault.partition(" ")[0] for fault in faults] == ["rate", "speed", "rows"]


def test_a_node_comes_after_the_steps_whose_outputs_it_takes() -> None:
    inputs: dict[str, NodeInput | None] = {
        "a": "${{parent.jobs.x.outputs.o}}",
        "b": " ${{ parent.jobs.y.outputs.o }} ",
        "c": 1,
    }
    assert upstream_of(Node("n", "c", inputs)) == {"x", "y"}
