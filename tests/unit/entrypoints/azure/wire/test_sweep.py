"""Sweep jobs as the Azure SDK sends them."""

from typing import Any

import pytest

from mafunzo.entities.job import Destination, Job, JobStatus
from mafunzo.entities.reference import AssetReference
from mafunzo.entities.sweep import (
    BEST_TRIAL,
    BEST_VALUE,
    Distribution,
    EarlyTermination,
    Goal,
    Policy,
    Sampling,
    Sweep,
)
from mafunzo.entrypoints.azure.wire.component import node_from_body
from mafunzo.entrypoints.azure.wire.envelope import resource_id
from mafunzo.entrypoints.azure.wire.job import COMMAND, TRIAL, job_body, job_from_body
from mafunzo.entrypoints.azure.wire.run import run_details
from mafunzo.entrypoints.azure.wire.sweep import number_of, sweep_from_body, sweep_from_node
from mafunzo.errors import InvalidParameter

BODY_OF_A_SWEEP: dict[str, Any] = {
    "jobType": "Sweep",
    "displayName": "sw",
    "experimentName": "main",
    "searchSpace": {"lr": ["uniform", [0.01, 0.9]], "n": ["choice", [[1, 2, 3]]]},
    "samplingAlgorithm": {"samplingAlgorithmType": "Random", "seed": 7},
    "limits": {"maxConcurrentTrials": 2, "maxTotalTrials": 5, "timeout": "PT2H", "trialTimeout": "PT10M"},
    "earlyTermination": {"delayEvaluation": 2, "evaluationInterval": 1, "policyType": "MedianStopping"},
    "objective": {"goal": "minimize", "primaryMetric": "loss"},
    "trial": {
        "codeId": "azureml:c:1",
        "environmentId": "azureml:e:1",
        "command": "python a.py --lr ${{search_space.lr}} --x ${{inputs.x}} --o ${{outputs.o}}",
        "environmentVariables": {"A": "b"},
        "distribution": {"processCountPerInstance": 2, "distributionType": "PyTorch"},
    },
    "inputs": {"x": {"value": "3", "jobInputType": "literal"}},
    "outputs": {"o": {"assetName": "out", "jobOutputType": "uri_folder", "assetVersion": "1"}},
    "properties": {"mine": "kept"},
}


@pytest.mark.parametrize(("value", "number"), [("1e-4", 1e-4), (3, 3), ("abc", "abc"), (True, True), ("nan", "nan")])
def test_a_number_may_be_a_text(value: Any, number: Any) -> None:
    assert number_of(value) == number


def with_(**changes: Any) -> dict[str, Any]:
    return {**BODY_OF_A_SWEEP, **changes}


def test_a_sweep_is_a_pipeline_of_its_trial() -> None:
    asked = job_from_body("sw1", {"properties": BODY_OF_A_SWEEP})
    assert asked.sweep == Sweep(
        metric="loss",
        goal=Goal.MINIMIZE,
        space={"lr": Distribution("uniform", (0.01, 0.9)), "n": Distribution("choice", (1, 2, 3))},
        sampling=Sampling.RANDOM,
        max_trials=5,
        max_parallel=2,
        timeout_s=7200,
        early_termination=EarlyTermination(Policy.MEDIAN, interval=1, delay=2),
        seed=7,
    )
    node, command = asked.pipeline.nodes[TRIAL], asked.commands[COMMAND]
    component, source = command.component, command.source
    assert (node.timeout_s, node.outputs, node.inputs) == (600, {}, {"x": "${{parent.inputs.x}}"})
    assert node.destinations == {"o": Destination("uri_folder", "out", "1")}
    assert component.command == "python a.py --lr ${{inputs.lr}} --x ${{inputs.x}} --o ${{outputs.o}}"
    assert {name: declared.type for name, declared in component.inputs.items()} == {
        "x": "string",
        "lr": "number",
        "n": "integer",
    }
    assert (component.environment, component.resources.processes, source.code) == (
        {"A": "b"},
        2,
        AssetReference("c", "1"),
    )
    assert not component.is_deterministic  # what a trial logs isn't an output, so that no other stands in for it
    assert asked.continue_on_step_failure and asked.pipeline.outputs == {} == asked.destinations


@pytest.mark.parametrize(
    ("given", "arguments", "kind"),
    [
        pytest.param(["choice", [["a", "b"]]], ("a", "b"), "string", id="texts"),
        pytest.param(["choice", [[1, 0.5]]], (1, 0.5), "number", id="numbers"),
        pytest.param(["choice", [[True, False]]], (True, False), "boolean", id="truths"),
        pytest.param(["choice", [[1, True]]], (1, True), "string", id="mixed"),
        pytest.param(["randint", [5]], (5,), "integer", id="randint"),
        pytest.param(["quniform", [0, 9, 2]], (0, 9, 2), "integer", id="whole multiples"),
        pytest.param(["qnormal", [0, 9, 0.5]], (0, 9, 0.5), "number", id="other multiples"),
        pytest.param(["loguniform", [-6, -1]], (-6, -1), "number", id="loguniform"),
        pytest.param(["qloguniform", [-6, -1, 0.1]], (-6, -1, 0.1), "number", id="qloguniform"),
        pytest.param(["normal", [0, 1]], (0, 1), "number", id="normal"),
        pytest.param(["lognormal", [0, 1]], (0, 1), "number", id="lognormal"),
        pytest.param(["qlognormal", [0, 1, 1]], (0, 1, 1), "integer", id="qlognormal"),
    ],
)
def test_every_distribution_is_read(given: list[Any], arguments: tuple[Any, ...], kind: str) -> None:
    asked = job_from_body("s", {"properties": with_(searchSpace={"lr": given})})
    assert asked.sweep is not None and asked.sweep.space["lr"] == Distribution(given[0], arguments)
    assert asked.commands[COMMAND].component.inputs["lr"].type == kind


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        pytest.param({"searchSpace": {}}, "the search space is empty", id="no space"),
        pytest.param({"searchSpace": {"lr": ["poisson", [1]]}}, "lr is ['poisson', [1]], expected one of", id="kind"),
        pytest.param({"searchSpace": {"lr": ["uniform", [1]]}}, "expected the numbers min_value, max_value", id="few"),
        pytest.param({"searchSpace": {"lr": ["uniform", ["a", 1]]}}, "expected the numbers", id="not numbers"),
        pytest.param(
            {"searchSpace": {"lr": ["uniform", [2, 1]]}}, "min_value is 2, more than max_value, 1", id="order"
        ),
        pytest.param({"searchSpace": {"lr": ["loguniform", [1, 1e4]]}}, "its values are logarithms", id="no logarithm"),
        pytest.param({"searchSpace": {"lr": ["normal", [1, 0]]}}, "sigma is 0, expected more than 0", id="no spread"),
        pytest.param({"searchSpace": {"lr": ["quniform", [1, 2, 0]]}}, "q is 0, expected more than 0", id="no quantum"),
        pytest.param({"searchSpace": {"lr": ["randint", [0]]}}, "upper is 0, expected a whole number", id="randint"),
        pytest.param({"searchSpace": {"lr": ["choice", [[]]]}}, "it has no values", id="no choice"),
        pytest.param({"searchSpace": {"lr": ["choice", [[{"a": 1}]]]}}, "Spaces within values", id="nested"),
        pytest.param(
            {"searchSpace": {"x": ["randint", [3]]}}, "x is both an input and in the search space", id="twice"
        ),
        pytest.param({"searchSpace": {"n": ["randint", [3]]}}, "the command uses search_space.lr, which", id="missing"),
        pytest.param({"samplingAlgorithm": {"samplingAlgorithmType": "Grid"}}, "lr is uniform, but a grid", id="grid"),
        pytest.param(
            {"samplingAlgorithm": {"samplingAlgorithmType": "Luck"}},
            "is 'luck', expected one of grid, random, bayesian",
            id="sampling",
        ),
        pytest.param(
            {"samplingAlgorithm": {"rule": "halton"}}, "rule is 'halton', expected random or sobol", id="rule"
        ),
        pytest.param({"samplingAlgorithm": {"seed": -1}}, "seed is -1, expected a whole number", id="seed"),
        pytest.param({"samplingAlgorithm": {"logbase": 0}}, "logbase is 0, expected e, or a number", id="base"),
        pytest.param(
            {"objective": {"goal": "win", "primaryMetric": "a"}}, "goal is 'win', expected minimize", id="goal"
        ),
        pytest.param({"objective": {"goal": "minimize"}}, "primary_metric is missing", id="no metric"),
        pytest.param(
            {"limits": {"maxTotalTrials": 0}}, "max_total_trials is 0, expected a whole number from 1", id="none"
        ),
        pytest.param({"limits": {"maxConcurrentTrials": 0}}, "max_concurrent_trials is 0", id="none side by side"),
        pytest.param({"limits": {"timeout": "soon"}}, "timeout: 'soon' isn't a duration", id="duration"),
        pytest.param({"limits": {"trialTimeout": "soon"}}, "trial_timeout: 'soon' isn't a duration", id="of a trial"),
        pytest.param(
            {"earlyTermination": {"policyType": "Luck"}}, "type is 'Luck', expected one of Median", id="policy"
        ),
        pytest.param({"earlyTermination": {"policyType": "Bandit"}}, "has one of slack_factor and", id="no slack"),
        pytest.param(
            {"earlyTermination": {"policyType": "Bandit", "slackFactor": 1, "slackAmount": 1}}, "has one of", id="both"
        ),
        pytest.param(
            {"earlyTermination": {"policyType": "TruncationSelection"}}, "truncation_percentage is 0", id="no share"
        ),
        pytest.param(
            {"earlyTermination": {"policyType": "MedianStopping", "delayEvaluation": -1}},
            "delay_evaluation is -1, expected a whole number, 0 or more",
            id="delay",
        ),
        pytest.param({"trial": {}}, "the trial has no command", id="no command"),
    ],
)
def test_each_fault_says_what_to_do(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        sweep_from_body("s", with_(**changes))
    assert fault in "\n".join(refused.value.faults)


def test_all_faults_come_at_once() -> None:
    body = with_(searchSpace={"lr": ["uniform", [2, 1]]}, objective={}, limits={"maxTotalTrials": 2000})
    with pytest.raises(InvalidParameter) as refused:
        sweep_from_body("s", body)
    assert len(refused.value.faults) == 4


def test_a_sweep_that_says_little_runs_as_on_azure() -> None:
    found = sweep_from_body("s", with_(limits={}, samplingAlgorithm={}, earlyTermination=None))
    assert (found.max_trials, found.max_parallel, found.sampling, found.seed) == (1000, 1000, Sampling.RANDOM, None)


def test_a_sweep_that_has_ended_names_its_best_trial() -> None:
    asked = job_from_body("sw1", {"properties": BODY_OF_A_SWEEP})
    job = Job(
        "sw1",
        "sw",
        "main",
        "c:1",
        status=JobStatus.COMPLETED,
        properties={BEST_TRIAL: "trial_3", BEST_VALUE: 0.25},
        user_properties=asked.user_properties or {},
        sweep=asked.sweep,
        echoes=asked.echoes,
    )
    said = job_body(job, "https://pages")["properties"]
    assert said["properties"] == {"mine": "kept", "best_child_run_id": "sw1.trial_3", "score": "0.25"}
    assert {key: said[key] for key in ("jobType", "searchSpace", "limits")} == {
        key: BODY_OF_A_SWEEP[key] for key in ("jobType", "searchSpace", "limits")
    }
    ids = {
        "codeId": resource_id("codes", "c", "versions", "1"),
        "environmentId": resource_id("environments", "e", "versions", "1"),
    }
    assert said["trial"] == {**BODY_OF_A_SWEEP["trial"], **ids}
    assert said["outputs"]["o"]["uri"] == "azureml://jobs/sw1/outputs/o"
    assert list(run_details(job, "https://log")["logFiles"]) == ["azureml-logs/hyperdrive.txt"]
    assert asked.echoes["azure"] == {"properties": BODY_OF_A_SWEEP}


NODE: dict[str, Any] = {  # as the SDK sends it
    "type": "sweep",
    "limits": {"max_concurrent_trials": 1, "max_total_trials": 3, "timeout": 600, "trial_timeout": 60},
    "sampling_algorithm": "random",
    "objective": {"goal": "minimize", "primary_metric": "score"},
    "early_termination": {
        "delay_evaluation": 5,
        "evaluation_interval": 2,
        "slack_factor": 0.1,
        "policy_type": "Bandit",
    },
    "search_space": {"slope": {"type": "uniform", "min_value": 0.1, "max_value": "9e-1"}},
    "resources": {"instance_count": 1},
    "display_name": "Look",
    "inputs": {"shift": {"value": "${{parent.inputs.a}}", "job_input_type": "literal"}},
    "outputs": {"model": {"value": "${{parent.outputs.best}}", "type": "literal"}},
    "trial": {"componentId": "azureml:try:1"},
}


def test_a_node_may_be_a_sweep() -> None:
    node = node_from_body("look", NODE)
    assert node.component == AssetReference("try", "1") and node.display_name == "Look"
    assert node.inputs == {"shift": "${{parent.inputs.a}}"} and node.outputs == {"model": "${{parent.outputs.best}}"}
    assert node.timeout_s == 60
    assert node.sweep == Sweep(
        "score",
        Goal.MINIMIZE,
        {"slope": Distribution("uniform", (0.1, 0.9))},
        max_trials=3,
        max_parallel=1,
        timeout_s=600,
        early_termination=EarlyTermination(Policy.BANDIT, interval=2, delay=5, slack_factor=0.1),
    )


@pytest.mark.parametrize(
    "policy",
    [
        {"type": "truncation_selection", "truncation_percentage": 20},
        {"policy_type": "TruncationSelection", "truncation_percentage": 20},
    ],
)
def test_a_nodes_policy_is_spelled_as_in_a_file_or_as_the_sdk_sends_it(policy: dict[str, Any]) -> None:
    sweep = sweep_from_node("look", {**NODE, "early_termination": policy})
    assert sweep.early_termination == EarlyTermination(Policy.TRUNCATION, percent=20)


def test_all_faults_of_a_node_come_at_once_with_its_name() -> None:
    changes: dict[str, Any] = {
        "trial": None,
        "objective": {"goal": "least"},
        "search_space": {"shift": {"type": "choice", "values": []}, "a": 3},
        "limits": {"max_total_trials": "${{parent.inputs.n}}"},
    }
    with pytest.raises(InvalidParameter) as refused:
        sweep_from_node("look", {**NODE, **changes})
    faults = "\n".join(refused.value.faults)
    for fault in (
        "goal is 'least'",
        "shift is choice: it has no values",
        "a is 3, expected one of choice",
        "primary_metric is missing",
        "shift is both an input and in the search space",
        "max_total_trials is ${{parent.inputs.n}}, expected a whole number",
        "the trial is missing",
    ):
        assert fault in faults
    assert all(fault.startswith("Node 'look': ") for fault in refused.value.faults)
