"""Tests of `mafunzo.control.pipelines.binding`."""

from typing import Any

import pytest

from mafunzo.control.pipelines.binding import filled, inputs_of
from mafunzo.entities.job import ArtifactInput

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
