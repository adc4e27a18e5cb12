"""Tests of `mafunzo.control.pipelines.flatten`."""

from dataclasses import replace
from typing import Any

import pytest

from mafunzo.control.pipelines import flatten as module
from mafunzo.control.pipelines.flatten import Flat, flatten
from mafunzo.control.pipelines.plan import PinnedComponent
from mafunzo.entities.component import COMPUTE, INSTANCES, TIMEOUT, Component, Input, Node, Output
from mafunzo.entities.job import Destination
from mafunzo.entities.reference import AssetReference, PathInput
from mafunzo.entities.sweep import Distribution, Goal, Sweep
from mafunzo.errors import InvalidParameter, NotFound

COPY = Component(
    name="copy",
    version="1",
    kind="command",
    command="cp ${{inputs.rows}} ${{outputs.rows}}",
    inputs={"rows": Input("rows", "uri_folder"), "limit": Input("limit", "integer", is_optional=True)},
    outputs={"rows": Output("rows", "uri_folder")},
)


def pipeline(name: str, nodes: list[Node], inputs: list[Input] | None = None) -> Component:
    declared = inputs or [Input("rows", "uri_folder"), Input("limit", "integer", is_optional=True)]
    outputs = {"rows": Output("rows", "uri_folder")}
    return Component(name, "1", "pipeline", inputs={i.name: i for i in declared}, outputs=outputs, nodes=by_name(nodes))


def by_name(nodes: list[Node]) -> dict[str, Node]:
    return {node.name: node for node in nodes}


def step(name: str, component: str, rows: str, is_last: bool = False, **inputs: Any) -> Node:
    outputs = {"rows": "${{parent.outputs.rows}}"} if is_last else {}
    return Node(name, component, inputs={"rows": rows, **inputs}, outputs=outputs)


INPUT = "${{parent.inputs.rows}}"
TWICE = pipeline(
    "twice",
    [
        step("a", "copy", INPUT, limit="${{parent.inputs.limit}}"),
        step("b", "copy", "${{parent.jobs.a.outputs.rows}}", is_last=True),
    ],
)
FOUR_TIMES = pipeline(
    "four_times",
    [step("one", "twice", INPUT), step("two", "twice", "${{parent.jobs.one.outputs.rows}}", is_last=True)],
)
KNOWN = {"copy": COPY, "twice": TWICE, "four_times": FOUR_TIMES}


def flat(nodes: list[Node], **known: Component) -> Flat:
    def pin(name: str) -> PinnedComponent:
        found = {**KNOWN, **known}.get(name)
        if found is None:
            raise NotFound(f"No component '{name}'.")
        return PinnedComponent(found, code=name)

    return flatten(pipeline("whole", nodes), pin)


def test_nodes_that_are_pipelines_become_their_commands_with_every_binding_followed() -> None:
    found = flat([step("x", "four_times", INPUT), step("y", "copy", "${{parent.jobs.x.outputs.rows}}", is_last=True)])
    assert {name: node.inputs["rows"] for name, node in found.pipeline.nodes.items()} == {
        "x.one.a": "${{parent.inputs.rows}}",
        "x.one.b": "${{parent.jobs.x.one.a.outputs.rows}}",
        "x.two.a": "${{parent.jobs.x.one.b.outputs.rows}}",
        "x.two.b": "${{parent.jobs.x.two.a.outputs.rows}}",
        "y": "${{parent.jobs.x.two.b.outputs.rows}}",
    }
    assert found.pipeline.nodes["y"].outputs == {"rows": "${{parent.outputs.rows}}"}
    assert not found.pipeline.nodes["x.two.b"].outputs
    assert all(node.component == "copy" for node in found.pipeline.nodes.values())


def test_an_inner_input_is_what_the_outer_node_gives_or_its_default_or_left_out() -> None:
    with_default = pipeline(
        "defaulted",
        [step("a", "copy", INPUT, is_last=True, limit="${{parent.inputs.limit}}")],
        [Input("rows", "uri_folder"), Input("limit", "integer", default=5)],
    )
    nodes = [step("x", "twice", INPUT, limit="3"), step("y", "twice", INPUT), step("z", "defaulted", INPUT)]
    found = flat(nodes, defaulted=with_default).pipeline.nodes
    assert found["x.a"].inputs["limit"] == "3"
    assert "limit" not in found["y.a"].inputs
    assert found["z.a"].inputs["limit"] == 5


def test_what_becomes_of_an_inner_pipelines_output_is_its_steps_to_do() -> None:
    destination = Destination("uri_folder", asset_name="rows")
    node = Node("x", "twice", inputs={"rows": INPUT}, destinations={"rows": destination}, environment={"A": "1"})
    found = flat([node]).pipeline.nodes
    assert (found["x.a"].destinations, found["x.b"].destinations) == ({}, {"rows": destination})
    assert found["x.a"].environment == {"A": "1"}


TEXTS = pipeline(
    "texts",
    [
        replace(
            step("a", "copy", "r/${{parent.inputs.g.name}}/${{parent.inputs.count}}"),
            bound={
                COMPUTE: "${{parent.inputs.g.name}}",
                INSTANCES: "${{parent.inputs.count}}",
                TIMEOUT: "${{parent.inputs.limit}}",
            },
        )
    ],
    [Input("g.name", "string"), Input("count", "integer", default=2), Input("limit", "integer", is_optional=True)],
)


def test_texts_are_filled_with_what_the_outer_node_gives() -> None:
    inner = Node("x", "texts", inputs={"g.name": "b-${{parent.inputs.rows}}"})
    found = flat(
        [inner, replace(inner, name="y", inputs={"g.name": "c", "limit": "${{parent.inputs.limit}}"})], texts=TEXTS
    )
    x, y = found.pipeline.nodes.values()
    assert x.inputs["rows"] == "r/b-${{parent.inputs.rows}}/2"
    assert x.bound == {COMPUTE: "b-${{parent.inputs.rows}}", INSTANCES: "2"}, "limit is optional, and isn't given"
    assert (y.inputs["rows"], y.bound[TIMEOUT]) == ("r/c/2", "${{parent.inputs.limit}}")
    twice = pipeline("outer", [Node("in", "texts", inputs={"g.name": "<${{parent.inputs.rows}}>"})])
    (deep,) = flat([Node("x", "outer", inputs={"rows": "v"})], texts=TEXTS, outer=twice).pipeline.nodes.values()
    assert (deep.name, deep.inputs["rows"], deep.bound[COMPUTE]) == ("x.in.a", "r/<v>/2", "<v>")


def test_a_path_or_nothing_within_a_text_of_an_inner_pipeline_is_a_fault() -> None:
    bare = pipeline("bare", [step("a", "copy", "r-${{parent.inputs.limit}}", limit="${{parent.inputs.rows}}1")])
    with pytest.raises(InvalidParameter) as refused:
        flat(
            [
                Node(
                    "x",
                    "bare",
                    inputs={"rows": PathInput(AssetReference("rows", "1"), "uri_folder", "rows:1")},
                )
            ],
            bare=bare,
        )
    assert refused.value.faults == (
        "step 'x.a': rows is 'r-${{parent.inputs.limit}}', but no input limit is given.",
        "step 'x.a': limit is '${{parent.inputs.rows}}1', but rows is a file or folder, expected a value.",
    )


def test_every_fault_is_told_at_once() -> None:
    nodes = [
        step("x", "twice", INPUT, colour="red"),
        step("y", "nowhere", INPUT),
        Node("z", "twice", inputs={"limit": "1"}),
        step("w", "loop", INPUT),
    ]
    loop = pipeline("loop", [step("again", "loop", INPUT)])
    with pytest.raises(InvalidParameter) as refused:
        flat(nodes, loop=loop)
    assert refused.value.faults == (
        "step 'x': colour is not a parameter.",
        "step 'y': No component 'nowhere'.",
        "step 'z': rows is missing. It is an input of the pipeline 'twice'.",
        "step 'again': the pipeline 'loop' contains itself.",
    )


def test_more_steps_than_a_job_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STEPS", 7)
    assert len(flat([step("x", "four_times", INPUT)]).pipeline.nodes) == 4
    with pytest.raises(InvalidParameter, match="more than 7 steps"):
        flat([step("x", "four_times", INPUT), step("y", "four_times", INPUT)])


LOOK = Sweep("loss", Goal.MINIMIZE, {"limit": Distribution("randint", (9,))}, max_trials=4)


def test_a_sweep_within_an_inner_pipeline_stays_one() -> None:
    inner = pipeline("inner", [replace(step("a", "copy", INPUT, is_last=True), sweep=LOOK)])
    assert flat([step("x", "inner", INPUT)], inner=inner).pipeline.nodes["x.a"].sweep == LOOK


def test_the_trial_of_a_sweep_is_a_command() -> None:
    with pytest.raises(InvalidParameter) as refused:
        flat([replace(step("x", "twice", INPUT), sweep=LOOK)])
    assert refused.value.faults == ("step 'x': its trial 'twice' is a pipeline, expected a command.",)


def test_more_trials_than_a_job_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STEPS", 7)
    assert len(flat([replace(step("x", "copy", INPUT), sweep=LOOK)]).pipeline.nodes) == 1
    with pytest.raises(InvalidParameter, match=r"have 8 trials in all, expected at most 7\. Set max_total_trials"):
        flat([replace(step(name, "copy", INPUT), sweep=LOOK) for name in ("x", "y")])
