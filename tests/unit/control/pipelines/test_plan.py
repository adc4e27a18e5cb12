"""Every fault of a request, at once, and the steps of one without faults."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mafunzo.control.pipelines.plan import Facts, PinnedComponent, plan
from mafunzo.entities.component import COMPUTE, INSTANCES, PROCESSES, TIMEOUT, Component, Input, Node, Output
from mafunzo.entities.compute import ClusterNode, Hardware, Placement
from mafunzo.entities.job import ArtifactInput, Destination, Job, LiteralInput, Resources, Step, StepOutputInput
from mafunzo.entities.job_request import JobRequest
from mafunzo.entities.parameters.component import COMPONENTS, ESTIMATE
from mafunzo.entities.parameters.parameter import EVALUATE, FINETUNE, IMPORT_MODEL
from mafunzo.entities.sweep import Distribution, Goal, Sampling, Sweep
from mafunzo.errors import InvalidParameter

DATA = ArtifactInput("sha256:da7a", "train.jsonl")


def named(*declared: Any) -> Any:
    return {one.name: one for one in declared}


PREPARE = Component(
    name="prepare",
    version="1",
    kind="command",
    command="sort ${{inputs.data}} $[[-n ${{inputs.limit}}]] > ${{outputs.rows}}",
    inputs=named(Input("data", "uri_file"), Input("limit", "integer", is_optional=True, minimum=1, maximum=9)),
    outputs=named(Output("rows", "uri_folder")),
)
TRAIN = Component(
    name="train",
    version="2",
    kind="command",
    command="train ${{inputs.rows}} ${{inputs.rate}} ${{inputs.mode}} > ${{outputs.model}}",
    inputs=named(
        Input("rows", "uri_folder"),
        Input("rate", "number", default=0.5, minimum=0, maximum=1),
        Input("mode", "string", default="fast", enum=("fast", "slow"), refused={"slow": "it isn't built yet."}),
    ),
    outputs=named(Output("model", "mlflow_model")),
    resources=Resources(cpus=0),
)
PIPELINE = Component(
    name="both",
    version="3",
    kind="pipeline",
    inputs=named(
        Input("train_file", "uri_file", aliases=("training_data",)),
        Input("rate", "number", default=0.5, minimum=0, maximum=1, aliases=("lr",)),
        Input("limit", "integer", is_optional=True),
        Input("mode", "string", is_optional=True, enum=("fast", "slow"), refused={"slow": "it isn't built yet."}),
        Input("extra", "custom_model", is_optional=True, refused={"*": "this version takes none."}),
    ),
    outputs=named(Output("model", "custom_model")),
    nodes={
        "train": Node(
            "train",
            "azureml:train@latest",
            inputs={
                "rows": "${{parent.jobs.prepare.outputs.rows}}",
                "rate": "${{parent.inputs.rate}}",
                "mode": "${{parent.inputs.mode}}",
            },
            outputs={"model": "${{parent.outputs.model}}"},
            retries=2,
        ),
        "prepare": Node(
            "prepare",
            "prepare",
            inputs={"data": "${{parent.inputs.train_file}}", "limit": "${{ parent.inputs.limit }}"},
        ),
    },
)
PINNED = {
    "prepare": PinnedComponent(PREPARE, "sha256:c0de", code_artifact="sha256:f01d"),
    "azureml:train@latest": PinnedComponent(TRAIN, "sha256:beef", is_trusted=True),
}
FACTS = Facts(PINNED, Hardware(cpus=4, memory_mb=8000), datetime(2026, 1, 2, tzinfo=UTC))

FOLDERS = {name: ArtifactInput("sha256:da7a") for name in ("model", "prepared")}
TRAINING = replace(
    FACTS,
    pinned={
        f"{name}:1": PinnedComponent(COMPONENTS[name], "sha256:beef", is_trusted=True) for name in (FINETUNE, ESTIMATE)
    },
)


def planned(pipeline: Component = PIPELINE, facts: Facts = FACTS, **inputs: Any) -> tuple[Job, dict[str, Step]]:
    given = {"train_file": DATA, **inputs}
    job, steps = plan(JobRequest("job-1", pipeline, given), facts)
    return job, {step.name: step for step in steps}


def faults(pipeline: Component = PIPELINE, facts: Facts = FACTS, **inputs: Any) -> list[str]:
    with pytest.raises(InvalidParameter) as caught:
        planned(pipeline, facts, **inputs)
    assert caught.value.message == "Job 'job-1' can't be planned."
    return list(caught.value.faults)


def with_node(name: str, pipeline: Component = PIPELINE, **changes: Any) -> Component:
    return replace(pipeline, nodes={**pipeline.nodes, name: replace(pipeline.nodes[name], **changes)})


def with_input(node: str, **inputs: Any) -> Component:
    return with_node(node, inputs={**PIPELINE.nodes[node].inputs, **inputs})


def pinning(reference: str, **changes: Any) -> Facts:
    pinned = replace(PINNED[reference], component=replace(PINNED[reference].component, **changes))
    return replace(FACTS, pinned={**PINNED, reference: pinned})


def test_steps_come_in_an_order_in_which_they_can_run() -> None:
    _, steps = planned()
    assert list(steps) == ["prepare", "train"]


def test_bindings_and_defaults_become_the_inputs_of_steps() -> None:
    job, steps = planned(rate="0.25", limit=5)
    assert steps["prepare"].spec.inputs == {"data": DATA, "limit": LiteralInput(5)}
    assert steps["train"].spec.inputs == {
        "rows": StepOutputInput("prepare", "rows"),
        "rate": LiteralInput(0.25),
        "mode": LiteralInput("fast"),
    }
    assert job.outputs == {"model": StepOutputInput("train", "model")}
    assert job.inputs == {"train_file": {"artifact": "sha256:da7a", "name": "train.jsonl"}, "rate": 0.25, "limit": 5}
    assert (job.component, job.created_at) == ("both:3", FACTS.now)


LOOK = Sweep("loss", Goal.MINIMIZE, {"rate": Distribution("choice", (0.1, 0.2))}, Sampling.GRID, 2, 2)


def swept(sweep: Sweep = LOOK, **changes: Any) -> Component:
    """The pipeline whose step `train` is a sweep over its rate."""
    inputs = {name: value for name, value in PIPELINE.nodes["train"].inputs.items() if name not in sweep.space}
    return with_node("train", inputs=inputs, sweep=sweep, **changes)


def test_a_node_that_is_a_sweep_is_its_trials_and_a_step_that_takes_the_best() -> None:
    job, steps = planned(
        swept(timeout_s=60, display_name="Look", destinations={"model": Destination("custom_model", "m")})
    )
    assert list(steps) == ["prepare", "train.trial_0", "train.trial_1", "train"]
    trials = [steps[f"train.trial_{number}"].spec for number in range(2)]
    assert [spec.inputs["rate"] for spec in trials] == [LiteralInput(0.1), LiteralInput(0.2)]
    assert all((spec.trial_of, spec.timeout_s, spec.display_name) == ("train", 60, "") for spec in trials)
    assert all(spec.resources.cpus == 2 for spec in trials), "they share the machine's cores"
    look = steps["train"].spec
    assert look.inputs == {"rows": StepOutputInput("prepare", "rows"), "mode": LiteralInput("fast")}
    assert look.sweep is not None and replace(look.sweep, seed=None) == LOOK and look.sweep.seed is not None
    assert (look.trial_of, look.timeout_s, look.display_name) == ("", 0, "Look")
    assert look.destinations == trials[0].destinations
    assert job.outputs == {"model": StepOutputInput("train", "model")} and job.sweep is None


def test_what_is_drawn_for_a_node_follows_from_what_it_draws_from() -> None:
    def drawn(**changes: Any) -> list[Any]:
        space = {"rate": Distribution("uniform", (0.0, 1.0))}
        sweep = replace(Sweep("loss", Goal.MINIMIZE, space, max_trials=3), **changes)
        _, steps = planned(swept(sweep))
        return [step.spec.literals["rate"] for step in steps.values() if step.spec.trial_of]

    assert drawn() == drawn(metric="other") == drawn(max_trials=5)[:3]
    assert drawn() != drawn(seed=1) != drawn(seed=2) and drawn(seed=1) == drawn(seed=1)
    assert drawn() != drawn(sampling=Sampling.SOBOL)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"rate": Distribution("choice", (2, 3))}, ["step 'train': rate is 2, expected a number from 0 to 1."]),
        ({"rat": Distribution("choice", (1, 2))}, ["step 'train': rat is not a parameter. Did you mean rate?"]),
    ],
)
def test_what_is_wrong_with_the_trials_of_a_node_is_told_once(
    space: dict[str, Distribution], expected: list[str]
) -> None:
    assert faults(swept(replace(LOOK, space=space))) == expected


def test_a_step_carries_what_its_component_says() -> None:
    _, steps = planned()
    prepare, train = steps["prepare"].spec, steps["train"].spec
    assert (prepare.code, prepare.code_artifact, prepare.is_trusted) == ("sha256:c0de", "sha256:f01d", False)
    assert (train.component, train.is_trusted, train.retries) == ("train:2", True, 2)
    assert train.outputs == {"model": "mlflow_model"}
    assert train.resources.cpus == 4, "0 is all of them"


def test_an_optional_input_that_was_not_given_stays_out() -> None:
    _, steps = planned(limit=None)
    assert set(steps["prepare"].spec.inputs) == {"data"}


def test_an_alias_is_the_input() -> None:
    job, _ = planned(lr=0.75)
    assert job.inputs["rate"] == 0.75


def test_a_command_component_is_a_job_of_one_step() -> None:
    facts = replace(FACTS, pinned={"prepare:1": PINNED["prepare"]})
    job, steps = plan(JobRequest("job-1", PREPARE, {"data": DATA, "limit": 3}), facts)
    assert [step.name for step in steps] == ["prepare"]
    assert steps[0].spec.inputs == {"data": DATA, "limit": LiteralInput(3)}
    assert job.outputs == {"rows": StepOutputInput("prepare", "rows")}


def test_all_faults_are_told_at_once() -> None:
    told = faults(rate=3, limit="many", mode="slow", lrate=1, train_file=None, extra=ArtifactInput("sha256:0123"))
    assert told == [
        "lrate is not a parameter. Did you mean rate?",
        "train_file is missing, expected a uri_file.",
        "rate is 3, expected a number from 0 to 1.",
        "limit is 'many', expected a whole number.",
        "mode is 'slow': it isn't built yet.",
        "extra is given: this version takes none.",
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param(
            {"train_file": "x.jsonl"}, "train_file is 'x.jsonl', expected a uri_file of the store.", id="a path"
        ),
        pytest.param({"rate": DATA}, "rate is a file or folder, expected a number.", id="a file for a number"),
        pytest.param({"rate": True}, "rate is True, expected a number from 0 to 1.", id="a boolean for a number"),
        pytest.param({"mode": "quick"}, "mode is 'quick', expected one of fast.", id="not in the list"),
        pytest.param(
            {"rate": 0.1, "lr": 0.2}, "rate is given twice, also as lr. Give it once.", id="also by its alias"
        ),
        pytest.param(
            {"limit": 10}, "step 'prepare': limit is 10, expected a whole number from 1 to 9.", id="by the step"
        ),
    ],
)
def test_a_fault_of_an_input_is_told_once(given: dict[str, Any], told: str) -> None:
    assert faults(**given) == [told]


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        pytest.param(
            with_node("train", component="nope"), "step 'train': component 'nope' isn't known.", id="component"
        ),
        pytest.param(
            with_input("train", rat=1), "step 'train': rat is not a parameter. Did you mean rate?", id="unknown input"
        ),
        pytest.param(
            with_input("train", rows=None), "step 'train': rows is missing, expected a uri_folder.", id="missing"
        ),
        pytest.param(
            with_input("train", rows="${{parent.inputs.rate}}"),
            "step 'train': rows takes a uri_folder, but the job's input rate is a number.",
            id="a number can't feed a folder",
        ),
        pytest.param(
            with_input("train", rows="${{parent.inputs.train_file}}"),
            "step 'train': rows takes a uri_folder, but the job's input train_file is a uri_file.",
            id="a file can't feed a folder",
        ),
        pytest.param(
            with_input("train", rate="${{parent.jobs.prepare.outputs.rows}}"),
            "step 'train': rate takes a number, but output rows of step 'prepare' is a uri_folder.",
            id="a folder can't feed a number",
        ),
        pytest.param(
            with_input("train", rows="${{parent.jobs.prepar.outputs.rows}}"),
            "step 'train': rows comes from step 'prepar', which the job doesn't have. Did you mean prepare?",
            id="unknown step",
        ),
        pytest.param(
            with_input("train", rows="${{parent.jobs.prepare.outputs.row}}"),
            "step 'train': rows comes from output row of step 'prepare', which has none of that name. Did you mean rows?",
            id="unknown output",
        ),
        pytest.param(
            with_input("train", rate="${{parent.inputs.rte}}"),
            "step 'train': rate comes from the job's input rte, but rte is not an input of it. Did you mean rate?",
            id="unknown input of the job",
        ),
        pytest.param(
            with_input("train", rate="lr-${{parent.inputs.rate}}"),
            "step 'train': rate is 'lr-0.5', expected a number from 0 to 1.",
            id="a text that isn't a number once it is filled",
        ),
        pytest.param(
            with_input("train", rate="lr-${{inputs.rate}}"),
            "step 'train': rate is 'lr-${{inputs.rate}}', expected a value, ${{parent.inputs.<name>}} "
            "or ${{parent.jobs.<step>.outputs.<name>}}.",
            id="malformed binding",
        ),
        pytest.param(
            with_input("train", mode="x-${{parent.inputs.train_file}}"),
            "step 'train': mode is 'x-${{parent.inputs.train_file}}', but train_file is a file or folder, "
            "expected a value.",
            id="a file within a text",
        ),
        pytest.param(
            with_input("train", mode="x-${{parent.jobs.prepare.outputs.rows}}"),
            "step 'train': mode is 'x-${{parent.jobs.prepare.outputs.rows}}', but what a step writes is a file or "
            "folder, expected a value.",
            id="an output within a text",
        ),
        pytest.param(
            with_input("train", rate=7), "step 'train': rate is 7, expected a number from 0 to 1.", id="a value"
        ),
        pytest.param(
            with_node("train", outputs={}), "no step writes the job's output model.", id="an output that nobody writes"
        ),
        pytest.param(
            with_node("prepare", outputs={"rows": "${{parent.outputs.model}}"}),
            "step 'prepare': its output rows is bound to model, which step 'train' writes already.",
            id="an output that two write",
        ),
        pytest.param(
            with_node("prepare", outputs={"rows": "${{parent.outputs.rows}}"}),
            "step 'prepare': its output rows is bound to rows, which is not an output of the job.",
            id="an output that the job lacks",
        ),
        pytest.param(
            with_node("prepare", outputs={"row": "x"}),
            "step 'prepare': its output row isn't one of its component. Did you mean rows?",
            id="an output that the step lacks",
        ),
        pytest.param(
            with_node("train", resources=Resources(gpus=2)),
            "step 'train': it needs 2 GPUs, this machine has 0.",
            id="more GPUs than there are",
        ),
        pytest.param(
            with_node("train", resources=Resources(memory_mb=9000)),
            "step 'train': it needs 9000 MB of memory, this machine has 8000 MB.",
            id="more memory than there is",
        ),
    ],
)
def test_a_fault_of_the_pipeline_is_told_by_step(pipeline: Component, told: str) -> None:
    assert faults(pipeline) == [told]


def test_a_text_is_filled_with_the_jobs_values() -> None:
    free = pinning("azureml:train@latest", inputs={**TRAIN.inputs, "mode": Input("mode", "string")})
    text = with_input(
        "train", mode="at ${{parent.inputs.rate}}, ${{ parent.inputs.limit }} rows", rate="0.${{parent.inputs.limit}}"
    )
    inputs = planned(text, free, limit=5)[1]["train"].spec.inputs
    assert (inputs["mode"], inputs["rate"]) == (LiteralInput("at 0.5, 5 rows"), LiteralInput(0.5))
    assert faults(text, free, limit="many") == ["limit is 'many', expected a whole number."], "told once"


def test_an_input_of_a_group_has_dots_in_its_name() -> None:
    grouped = replace(
        with_input("train", rate="${{parent.inputs.g.h.rate}}"),
        inputs={**PIPELINE.inputs, "g.h.rate": Input("g.h.rate", "number", default=0.75)},
    )
    assert planned(grouped)[1]["train"].spec.inputs["rate"] == LiteralInput(0.75)


BOUND = {
    INSTANCES: "${{parent.inputs.limit}}",
    PROCESSES: "${{parent.inputs.limit}}",
    TIMEOUT: "PT${{parent.inputs.limit}}M",
    COMPUTE: "${{parent.inputs.mode}}",
}


def test_counts_and_limits_that_are_bound_are_the_jobs_values() -> None:
    step = {"resources": Resources(processes=2), "bound": BOUND}
    spec = planned(with_node("prepare", is_distributed=True, **step), limit=3)[1]["prepare"].spec
    assert (spec.resources.processes, spec.timeout_s) == (18, 180)
    alone = planned(with_node("prepare", **step), limit=3)[1]["prepare"].spec
    assert alone.resources.processes == 2, "without a distribution instances aren't counted"
    seconds = with_node("prepare", bound={TIMEOUT: "${{parent.inputs.limit}}"})
    assert planned(seconds, limit=3)[1]["prepare"].spec.timeout_s == 3


@pytest.mark.parametrize(
    ("bound", "told"),
    [
        pytest.param({INSTANCES: "x${{parent.inputs.rate}}"}, "resources.instance_count is 'x0.5', expected a whole number, 1 or more.", id="no count"),
        pytest.param({INSTANCES: "0"}, "resources.instance_count is '0', expected a whole number, 1 or more.", id="none"),
        pytest.param({PROCESSES: "6${{parent.inputs.limit}}"}, "it runs as 69 processes, expected 1 to 64.", id="too many"),
        pytest.param({PROCESSES: "${{parent.inputs.train_file}}"}, "distribution.process_count_per_instance is '${{parent.inputs.train_file}}', but train_file is a file or folder, expected a value.", id="a file"),
        pytest.param({INSTANCES: "${{parent.inputs.limt}}"}, "resources.instance_count is '${{parent.inputs.limt}}', but no input limt is given. Did you mean limit?", id="unknown"),
        pytest.param({TIMEOUT: "soon"}, "limits.timeout: 'soon' isn't a duration, expected a number of seconds, or ISO 8601 such as PT120S.", id="no limit"),
    ],
)  # fmt: skip
def test_a_fault_of_what_is_bound_is_told_by_step(bound: dict[str, str], told: str) -> None:
    assert faults(with_node("prepare", bound=bound, is_distributed=True), limit=9) == [f"step 'prepare': {told}"]


def test_what_is_bound_to_a_broken_input_is_silent() -> None:
    bound = with_node("prepare", bound=BOUND, is_distributed=True)
    assert faults(bound, limit="many") == ["limit is 'many', expected a whole number."]


def test_steps_that_wait_for_one_another_are_named() -> None:
    facts = pinning("prepare", inputs=named(Input("data", "mlflow_model"), Input("limit", "integer", is_optional=True)))
    circle = with_input("prepare", data="${{parent.jobs.train.outputs.model}}")
    assert faults(circle, facts) == ["steps train -> prepare -> train wait for one another."]


def test_a_required_input_fed_by_an_optional_one_says_where_it_comes_from() -> None:
    facts = pinning("prepare", inputs=named(Input("data", "uri_file"), Input("limit", "integer")))
    assert faults(facts=facts) == [
        "step 'prepare': limit is missing, expected a whole number. It comes from the job's input limit: give that one."
    ]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        pytest.param(
            "x ${{inputs.nope}}", "its command uses inputs.nope, which the component doesn't declare.", id="input"
        ),
        pytest.param(
            "x ${{outputs.data}}", "its command uses outputs.data, which the component doesn't declare.", id="output"
        ),
        pytest.param(
            "x ${{inputs.limit}}",
            "its command needs limit, which is optional and wasn't given. Write $[[... ${{inputs.limit}}]] around it.",
            id="an optional input outside of a block",
        ),
        pytest.param(
            "x ${{lr}}", "its command has ${{lr}}, expected ${{inputs.<name>}} or ${{outputs.<name>}}.", id="form"
        ),
    ],
)
def test_a_fault_of_a_command_is_found_before_it_runs(command: str, told: str) -> None:
    assert faults(facts=pinning("prepare", command=command)) == [f"step 'prepare': {told}"]


def test_a_pipeline_within_a_pipeline_is_refused() -> None:
    told = faults(facts=pinning("prepare", kind="pipeline"))
    assert told == ["step 'prepare': 'prepare' is a pipeline; a pipeline's steps are command components."]


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "a" * 256])
def test_a_name_that_could_not_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match="the name is"):
        plan(JobRequest(name, PIPELINE, {"train_file": DATA}), FACTS)


@pytest.mark.parametrize(
    ("source", "target", "is_fed"),
    [
        ("mlflow_model", "uri_folder", True),
        ("mlflow_model", "custom_model", True),
        ("custom_model", "uri_folder", True),
        ("uri_folder", "custom_model", True),
        ("uri_folder", "mlflow_model", False),
        ("custom_model", "mlflow_model", False),
        ("uri_file", "uri_folder", False),
        ("uri_folder", "uri_file", False),
        ("mltable", "uri_folder", True),
        ("uri_folder", "mltable", False),
    ],
)
def test_a_folder_feeds_what_accepts_its_type(source: str, target: str, is_fed: bool) -> None:
    writer = replace(PREPARE, outputs=named(Output("rows", source)))
    reader = replace(TRAIN, inputs={**TRAIN.inputs, "rows": Input("rows", target)})
    pinned = {"prepare": PinnedComponent(writer, "c"), "azureml:train@latest": PinnedComponent(reader, "c")}
    facts = replace(FACTS, pinned=pinned)
    if is_fed:
        planned(facts=facts)
    else:
        assert "train': rows takes" in faults(facts=facts)[0]


@pytest.mark.parametrize("component", [FINETUNE, ESTIMATE])
@pytest.mark.parametrize(("gpus_here", "gpus", "processes"), [(0, 0, 2), (1, 1, 1), (4, 3, 3)])
def test_the_step_that_trains_or_estimates_runs_as_a_process_a_gpu_or_as_those_of_the_cpu(
    gpus_here: int, gpus: int, processes: int, component: str
) -> None:
    facts = replace(TRAINING, hardware=Hardware(4, 8000, ("H200",) * gpus_here))
    values = {"number_of_gpu_to_use_finetuning": 3, "cpu_processes_finetune": 2}
    _, (step,) = plan(JobRequest("job-1", COMPONENTS[component], {**FOLDERS, **values}), facts)
    assert (step.spec.resources.gpus, step.spec.resources.processes) == (gpus, processes)


def test_a_strict_job_that_asks_for_gpus_that_are_not_here_can_t_be_planned() -> None:
    values = {"number_of_gpu_to_use_finetuning": 8, "num_nodes_finetune": 2, "strict_compute": "true"}
    with pytest.raises(InvalidParameter) as caught:
        plan(JobRequest("job-1", COMPONENTS[FINETUNE], {**FOLDERS, **values}), TRAINING)
    (fault,) = caught.value.faults
    assert "step 'finetune': strict_compute is 'true'" in fault
    assert "ask for 16 GPUs, of which 0 would train here" in fault


LAB = (ClusterNode("10.0.0.1", 8), ClusterNode("10.0.0.2", 8))
ON_LAB = replace(TRAINING, clusters={"lab": LAB})


def trained_on(compute: str, facts: Facts = ON_LAB, **values: Any) -> Step:
    request = JobRequest("job-1", COMPONENTS[FINETUNE], {**FOLDERS, **values}, computes={"compute": compute})
    _, (step,) = plan(request, facts)
    return step


def test_training_on_a_ray_cluster_is_placed_on_its_nodes_and_holds_one_core_here() -> None:
    step = trained_on("lab", num_nodes_finetune=2, per_device_train_batch_size=4, cpu_processes_finetune=2)
    assert step.spec.placement == Placement("lab", nodes=2, gpus=1, cpu_processes=2)
    assert step.spec.resources == Resources(cpus=1)


def test_more_nodes_than_a_cluster_has_are_taken_as_they_are() -> None:
    assert trained_on("lab", num_nodes_finetune=8).spec.placement == Placement("lab", nodes=8)


def test_training_is_placed_nowhere_by_a_compute_that_is_no_ray_cluster() -> None:
    step = trained_on("big", num_nodes_finetune=2)
    assert (step.spec.placement, step.spec.resources.processes) == (None, 1)


@pytest.mark.parametrize(
    ("nodes", "values", "text"),
    [
        pytest.param(
            LAB,
            {"num_nodes_finetune": 3, "strict_compute": "true"},
            "strict_compute is 'true', and 3 node(s) are asked for, compute 'lab' has 2 node(s). Leave strict_compute out",
            id="strict, too few nodes",
        ),
        pytest.param(
            LAB,
            {"num_nodes_finetune": 2, "number_of_gpu_to_use_finetuning": 4, "strict_compute": "true"},
            "2 node(s) with 4 GPU(s) each are asked for, compute 'lab' has 2 node(s) with 0 GPU(s) in all",
            id="strict, no GPUs",
        ),
        pytest.param((), {}, "compute 'lab' has no node with cores. Start one: ray start", id="no node"),
        pytest.param(
            LAB,
            {"num_nodes_finetune": 2, "cpu_processes_finetune": 9, "per_device_train_batch_size": 9},
            "cpu_processes_finetune is 9, node 10.0.0.1 has 8 cores.",
            id="more processes than cores",
        ),
        pytest.param(
            LAB,
            {"num_nodes_finetune": 2, "cpu_processes_finetune": 2, "per_device_train_batch_size": 1},
            "4 processes train on the nodes of compute 'lab', and the rows of a step, which they share, are 2. Raise",
            id="more processes than rows",
        ),
    ],
)
def test_training_that_the_nodes_cannot_do_is_refused(
    nodes: tuple[ClusterNode, ...], values: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        trained_on("lab", replace(TRAINING, clusters={"lab": nodes}), **values)
    assert any(fault.startswith("step 'finetune': ") and text in fault for fault in caught.value.faults)


def of_our_own(component: str, clusters: Mapping[str, tuple[ClusterNode, ...]]) -> Facts:
    pinned = {f"{component}:1": PinnedComponent(COMPONENTS[component], "sha256:beef", is_trusted=True)}
    return replace(FACTS, pinned=pinned, clusters=clusters)


def test_an_estimate_is_placed_as_training_is() -> None:
    request = JobRequest(
        "job-1", COMPONENTS[ESTIMATE], {**FOLDERS, "num_nodes_finetune": 2}, computes={"compute": "lab"}
    )
    _, (step,) = plan(request, ON_LAB)
    assert (step.spec.placement, step.spec.resources) == (Placement("lab", nodes=2), Resources(cpus=1))


def test_a_step_of_our_own_that_does_not_train_has_one_node_of_a_cluster() -> None:
    request = JobRequest(
        "job-1",
        COMPONENTS[EVALUATE],
        {name: ArtifactInput("sha256:da7a") for name in ("model", "tuned", "prepared")},
        computes={"compute": "lab"},
    )
    _, (step,) = plan(request, of_our_own(EVALUATE, {"lab": LAB}))
    assert (step.spec.placement, step.spec.resources) == (Placement("lab"), Resources(cpus=1))
    with pytest.raises(InvalidParameter) as caught:
        plan(request, of_our_own(EVALUATE, {"lab": ()}))
    assert caught.value.faults == (
        "step 'evaluate': compute 'lab' has no node with cores. Start one: ray start --address HOST:PORT",
    )


def test_a_step_whose_inputs_are_here_alone_is_refused_on_a_cluster() -> None:
    request = JobRequest("job-1", COMPONENTS[IMPORT_MODEL], computes={"compute": "lab"})
    with pytest.raises(InvalidParameter) as caught:
        plan(request, of_our_own(IMPORT_MODEL, {"lab": LAB}))
    assert any("step 'import_model': compute is 'lab', a Ray cluster" in fault for fault in caught.value.faults)


@pytest.mark.parametrize(("nodes", "at_once"), [(1, 2), (2, 1), (3, 1)])
def test_no_more_trials_run_side_by_side_than_a_cluster_has_nodes_for(nodes: int, at_once: int) -> None:
    space = {"learning_rate": Distribution("choice", (1e-5, 1e-4, 1e-3))}
    sweep = Sweep("eval_loss", Goal.MINIMIZE, space, Sampling.GRID, 3, max_parallel=8, seed=1)
    node = Node(
        FINETUNE, f"{FINETUNE}:1", {**FOLDERS, "num_nodes_finetune": nodes}, bound={"compute": "lab"}, sweep=sweep
    )
    pipeline = Component("searched", "1", "pipeline", nodes={FINETUNE: node})
    _, (*trials, look) = plan(JobRequest("job-1", pipeline), ON_LAB)
    assert [trial.spec.placement for trial in trials] == 3 * [Placement("lab", nodes=nodes)]
    assert look.spec.sweep == replace(sweep, max_parallel=at_once)
    job, _ = plan(
        JobRequest("job-1", replace(pipeline, nodes={FINETUNE: replace(node, sweep=None)}), sweep=sweep), ON_LAB
    )
    assert job.sweep == replace(sweep, max_parallel=at_once)


@pytest.mark.parametrize("who", ["compute", "default_compute", "compute of 'train'"])
def test_a_step_of_a_user_is_refused_on_a_ray_cluster(who: str) -> None:
    request = JobRequest("job-1", PIPELINE, {"train_file": DATA}, computes={who: "lab"})
    pinned = {name: replace(one, is_trusted=False) for name, one in PINNED.items()}
    with pytest.raises(InvalidParameter) as caught:
        plan(request, replace(FACTS, pinned=pinned, clusters={"lab": LAB}))
    assert any(
        "is 'lab', a Ray cluster, on which only Mafunzo's own steps run, but no import_model or package_model" in text
        for text in caught.value.faults
    )
