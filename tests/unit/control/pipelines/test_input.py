"""What may feed an input, and how each fault of that reads."""

import pytest

from mafunzo.control.pipelines.input import Broken, Sources, can_feed, check_inputs, upstream_of
from mafunzo.entities.component import Component, Input, Node, NodeInput, Output
from mafunzo.entities.job import ArtifactInput, LiteralInput, StepInput, StepOutputInput
from mafunzo.errors import Faults

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
