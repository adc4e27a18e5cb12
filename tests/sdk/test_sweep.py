"""Sweeps over commands, with the real SDK as the only driver."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from azure.ai.ml import Input, Output, command, dsl, load_job
from azure.ai.ml.entities import Environment, Model
from azure.ai.ml.exceptions import JobException
from azure.ai.ml.sweep import Choice, LogUniform, MedianStoppingPolicy, RandomSamplingAlgorithm, SweepJob, Uniform
from azure.core.exceptions import HttpResponseError

from mafunzo.control.workspace.retention import models_made_by


def logging(value: str) -> str:
    """A shell command that logs a loss as a step's metrics are kept."""
    return f"""printf '{{"time": 0, "step": 1, "loss": %s}}\\n' {value} >> $MAFUNZO_STEP_FOLDER/metrics.jsonl"""


@pytest.fixture(scope="module")
def plain(client: Any) -> str:
    client.environments.create_or_update(Environment(name="sweeps", image="mcr.microsoft.com/azureml/any", version="1"))
    return "azureml:sweeps:1"


@pytest.fixture(scope="module")
def grid(client: Any, plain: str, wait: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A sweep over four points that has ended; its best point is (2, "small")."""
    data = tmp_path_factory.mktemp("data") / "words.txt"
    data.write_text("words")
    trial = command(
        command=logging("$(( ${{inputs.a}} == 2 ? ${#size} : 10 + ${#size} ))").join(
            [
                "size=${{inputs.size}}; mkdir -p outputs; echo $size > outputs/size.txt; ",
                "; cat ${{inputs.file}} > ${{outputs.out}}/told.txt; echo ${{inputs.a}} $size >> ${{outputs.out}}/told.txt",
            ]
        ),
        inputs={"a": 0, "size": "", "file": Input(type="uri_file", path=str(data))},
        outputs={"out": Output(type="uri_folder", name="swept", version="3")},
        environment=plain,
    )
    swept = trial(a=Choice([1, 2]), size=Choice(["small", "enormous"])).sweep(
        sampling_algorithm="grid", primary_metric="loss", goal="Minimize", max_total_trials=10, max_concurrent_trials=2
    )
    swept.experiment_name, swept.display_name, swept.tags = "sweeps", "four points", {"team": "a"}
    return wait(client.jobs.create_or_update(swept).name)


def test_a_grid_runs_all_its_points_two_at_a_time(grid, client, workspace):
    assert (grid.status, grid.type, grid.experiment_name, grid.tags) == ("Completed", "sweep", "sweeps", {"team": "a"})
    steps = workspace.jobs.get(grid.name).steps
    told = {step.name: (step.spec.inputs["a"].value, step.spec.inputs["size"].value) for step in steps}
    assert told == {
        "trial_0": (1, "small"),
        "trial_1": (1, "enormous"),
        "trial_2": (2, "small"),
        "trial_3": (2, "enormous"),
    }
    moments = [(step.started_at, 1) for step in steps] + [(step.ended_at, -1) for step in steps]
    running = [sum(change for moment, change in moments if moment <= begin) for begin, _ in moments]
    assert max(running) <= 2


def test_the_best_trial_is_named_and_the_trials_are_jobs_of_their_own(grid, client):
    assert grid.properties["best_child_run_id"] == f"{grid.name}.trial_2"
    assert float(grid.properties["score"]) == len("small")
    children = list(client.jobs.list(parent_job_name=grid.name))
    assert {child.display_name: child.status for child in children} == {f"trial_{n}": "Completed" for n in range(4)}
    best = client.jobs.get(grid.properties["best_child_run_id"])
    assert json.loads(best.tags["hyperparameters"]) == {"a": 2, "size": "small"}
    assert [job.type for job in client.jobs.list() if job.name == grid.name] == ["sweep"]


def test_a_sweep_s_outputs_are_those_of_its_best_trial(grid, client, tmp_path):
    client.jobs.download(grid.name, output_name="out", download_path=tmp_path)
    assert (tmp_path / "named-outputs" / "out" / "told.txt").read_text() == "words2 small\n"
    client.jobs.download(grid.name, download_path=tmp_path / "all", all=True)
    assert (tmp_path / "all" / "artifacts" / "outputs" / "size.txt").read_text() == "small\n"
    assert (tmp_path / "all" / "named-outputs" / "out" / "told.txt").exists()
    registered = client.data.get("swept", version="3")
    assert registered.path.endswith("/paths/assets/data/swept/3/out/")
    assert [one.version for one in client.data.list("swept")] == ["3"]


def test_what_the_best_trial_made_is_registered_as_a_model(grid, client, workspace):
    best = grid.properties["best_child_run_id"]
    for name, path in (("by-name", "out"), ("by-path", "artifacts/paths/outputs/")):
        model = Model(name=name, path=f"azureml://jobs/{best}/outputs/{path}", type="custom_model")
        client.models.create_or_update(model)
    assert {model.name for model in models_made_by(workspace.services, grid.name)} == {"by-name", "by-path"}
    links = [(link.kind, link.name) for link in workspace.lineage("by-path").links if link.kind in ("job", "step")]
    assert links == [("job", grid.name), ("step", "trial_2 (completed)")]


def test_the_same_seed_gives_the_same_values(client, plain, wait, workspace):
    def values(seed: int) -> list[dict[str, Any]]:
        trial = command(command=logging("${{inputs.rate}}"), inputs={"rate": 0.1, "n": 1}, environment=plain)
        swept = trial(rate=LogUniform(-5, -1), n=Choice([1, 2, 3])).sweep(
            sampling_algorithm=RandomSamplingAlgorithm(seed=seed), primary_metric="loss", goal="maximize",
            max_total_trials=3,
        )  # fmt: skip
        found = wait(client.jobs.create_or_update(swept).name)
        assert found.status == "Completed"
        steps = workspace.jobs.get(found.name).steps
        drawn = [{name: step.spec.inputs[name].value for name in ("rate", "n")} for step in steps]
        best = max(range(3), key=lambda number: drawn[number]["rate"])
        assert found.properties["best_child_run_id"] == f"{found.name}.trial_{best}"
        return drawn

    first = values(7)
    assert values(7) == first != values(8)
    assert all(0.006 < one["rate"] < 0.37 and one["n"] in (1, 2, 3) for one in first)


def test_a_bayesian_sweep_draws_as_its_trials_start(client, plain, wait, workspace):
    trial = command(command=logging("${{inputs.x}}"), inputs={"x": 1}, environment=plain)
    swept = trial(x=Uniform(0, 100)).sweep(
        sampling_algorithm="bayesian", primary_metric="loss", goal="minimize", max_total_trials=12,
        max_concurrent_trials=2,
    )  # fmt: skip
    found = wait(client.jobs.create_or_update(swept).name)
    assert (found.status, found.sampling_algorithm.type) == ("Completed", "bayesian")
    handle = workspace.jobs.get(found.name)
    drawn = [step.spec.literals["x"] for step in handle.steps]
    assert len(set(drawn)) == 12
    assert [lines[0]["loss"] for lines in handle.metrics().values()] == drawn
    assert float(found.properties["score"]) == min(drawn)


def test_a_trial_that_does_badly_is_ended_early(client, plain, wait, workspace):
    slow = f"for n in 1 2 3; do {logging('${{inputs.loss}}')}; done; [ ${{{{inputs.loss}}}} -lt 5 ] || sleep 600"
    trial = command(command=slow, inputs={"loss": 1}, environment=plain)
    swept = trial(loss=Choice([1, 2, 9])).sweep(
        sampling_algorithm="grid", primary_metric="loss", goal="minimize", max_concurrent_trials=1,
        early_termination_policy=MedianStoppingPolicy(evaluation_interval=1, delay_evaluation=2),
    )  # fmt: skip
    found = wait(client.jobs.create_or_update(swept).name)
    assert found.status == "Completed" and found.early_termination.delay_evaluation == 2
    steps = {step.name: step for step in workspace.jobs.get(found.name).steps}
    assert {name: str(step.status) for name, step in steps.items()} == {
        "trial_0": "completed",
        "trial_1": "completed",
        "trial_2": "canceled",
    }
    assert steps["trial_2"].reason == "loss 9 after 3 values is worse than 2, the median of the trials' averages"


def test_trials_log_with_mlflow_each_into_a_run_of_its_own(client, plain, wait, workspace):
    program = "import mlflow, sys; [mlflow.log_metric('loss', float(sys.argv[1]) / n, step=n) for n in (1, 2)]"
    trial = command(command=f'python -c "{program}" ${{{{inputs.n}}}}', inputs={"n": 1}, environment=plain)
    swept = trial(n=Choice([4, 2])).sweep(sampling_algorithm="grid", primary_metric="loss", goal="minimize")
    found = wait(client.jobs.create_or_update(swept).name)
    assert (found.status, found.properties["best_child_run_id"]) == ("Completed", f"{found.name}.trial_1")
    logged = workspace.jobs.get(found.name).metrics()
    assert {name: [line["loss"] for line in lines] for name, lines in logged.items()} == {
        "trial_0": [4, 2],
        "trial_1": [2, 1],
    }


def test_a_sweep_is_done_when_a_trial_is(client, plain, wait, workspace):
    trial = command(
        command=f"[ ${{{{inputs.n}}}} = 2 ] && {logging('${{inputs.n}}')}", inputs={"n": 1}, environment=plain
    )
    some = trial(n=Choice([1, 2])).sweep(sampling_algorithm="grid", primary_metric="loss", goal="minimize")
    found = wait(client.jobs.create_or_update(some).name)
    assert (found.status, found.properties["best_child_run_id"]) == ("Completed", f"{found.name}.trial_1")
    none = trial(n=Choice([3, 4])).sweep(sampling_algorithm="grid", primary_metric="loss", goal="minimize")
    assert wait(client.jobs.create_or_update(none).name).status == "Failed"


def test_a_sweep_whose_trials_do_not_log_the_metric_fails_and_says_so(client, plain, wait, capsys):
    trial = command(command=logging("${{inputs.n}}"), inputs={"n": 1}, environment=plain)
    swept = trial(n=Choice([1])).sweep(sampling_algorithm="grid", primary_metric="accuracy", goal="maximize")
    made = client.jobs.create_or_update(swept)
    with pytest.raises(JobException, match="No trial logged the metric 'accuracy'"):
        client.jobs.stream(made.name)
    assert "best_child_run_id" not in client.jobs.get(made.name).properties
    assert "step trial_0 completed" in capsys.readouterr().out


def test_a_sweep_is_cancelled_with_all_its_trials(client, plain, wait, workspace):
    trial = command(command="sleep 600; echo ${{inputs.n}}", inputs={"n": 1}, environment=plain)
    swept = trial(n=Uniform(0, 1)).sweep(
        sampling_algorithm="random",
        primary_metric="loss",
        goal="minimize",
        max_total_trials=20,
        max_concurrent_trials=2,
    )
    made = client.jobs.create_or_update(swept)
    client.jobs.begin_cancel(made.name).wait()
    assert wait(made.name).status == "Canceled"
    assert {str(step.status) for step in workspace.jobs.get(made.name).steps} == {"canceled"}


TRY = """
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
name: try
version: 1
type: command
inputs:
  slope: {type: number}
  shift: {type: integer, default: 0}
outputs:
  found: {type: uri_folder}
environment: azureml:sweeps:1
command: >-
  python -c "import mlflow; mlflow.log_metric('score', (float('${{inputs.slope}}') - 0.5) ** 2 + ${{inputs.shift}})"
  && echo ${{inputs.slope}} > ${{outputs.found}}/slope.txt
"""
SEARCH = """
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
settings: {default_compute: "azureml:local"}
jobs:
  search:
    type: sweep
    inputs: {shift: 0}
    outputs:
      found: {type: uri_folder}
    sampling_algorithm: random
    trial: ./try.yml
    search_space:
      slope: {type: uniform, min_value: 0.1, max_value: 0.9}
    objective: {goal: minimize, primary_metric: score}
    limits: {max_total_trials: 2, max_concurrent_trials: 1, timeout: 600}
  use:
    type: command
    inputs:
      found: ${{parent.jobs.search.outputs.found}}
    environment: azureml:sweeps:1
    command: cp ${{inputs.found}}/slope.txt outputs
"""
SWEEP = """
$schema: https://azuremlschemas.azureedge.net/latest/sweepJob.schema.json
type: sweep
display_name: from a file
sampling_algorithm: random
search_space:
  rate: {type: uniform, min_value: 0.5, max_value: 0.9}
objective: {goal: maximize, primary_metric: loss}
limits: {max_total_trials: 2, max_concurrent_trials: 2, timeout: 7200, trial_timeout: 600}
inputs: {factor: 3}
outputs:
  out: {type: uri_folder}
trial:
  command: >-
    LOGGING; echo ${{inputs.factor}} > ${{outputs.out}}/factor.txt
  environment: azureml:sweeps:1
"""


def test_a_sweep_comes_from_a_file(client, plain, wait, workspace, tmp_path):
    (tmp_path / "sweep.yml").write_text(SWEEP.replace("LOGGING", logging("${{search_space.rate}}")))
    asked = load_job(tmp_path / "sweep.yml")
    assert isinstance(asked, SweepJob)
    found = wait(client.jobs.create_or_update(asked).name)
    assert (found.status, found.display_name, found.objective.goal) == ("Completed", "from a file", "maximize")
    client.jobs.download(found.name, output_name="out", download_path=tmp_path)
    assert (tmp_path / "named-outputs" / "out" / "factor.txt").read_text() == "3\n"
    assert {step.spec.timeout_s for step in workspace.jobs.get(found.name).steps} == {600}


def test_the_best_trial_of_a_node_goes_on_and_a_second_pipeline_takes_it_from_the_cache(client, plain, wait, tmp_path):
    program = "import mlflow; mlflow.log_metric('loss', (${{inputs.n}} - 2) ** 2 + ${{inputs.shift}})"
    trial = command(
        name="parabola",
        command=f'python -c "{program}"; echo ${{{{inputs.n}}}} > ${{{{outputs.found}}}}/n.txt',
        inputs={"n": Input(type="integer"), "shift": Input(type="number", default=0)},
        outputs={"found": Output(type="uri_folder")},
        environment=plain,
    )
    use = command(
        command="cat ${{inputs.found}}/n.txt > ${{outputs.copied}}/n.txt",
        inputs={"found": Input(type="uri_folder")},
        outputs={"copied": Output(type="uri_folder")},
        environment=plain,
    )

    @dsl.pipeline(default_compute="local")
    def around(shift: float = 0.5):
        search = trial(n=Choice([1, 2, 3]), shift=shift).sweep(
            sampling_algorithm="grid", primary_metric="loss", goal="minimize"
        )
        search.set_limits(max_total_trials=3, max_concurrent_trials=2, timeout=3600, trial_timeout=600)
        used = use(found=search.outputs.found)
        return {"copied": used.outputs.copied}

    first, again = (wait(client.jobs.create_or_update(around()).name) for _ in range(2))
    assert (first.status, again.status) == ("Completed", "Completed")
    client.jobs.download(first.name, output_name="copied", download_path=tmp_path)
    assert (tmp_path / "named-outputs" / "copied" / "n.txt").read_text() == "2\n"
    for job, reused in ((first, None), (again, "true")):
        children = {child.display_name: child for child in client.jobs.list(parent_job_name=job.name)}
        assert set(children) == {"search", "used"} and children["used"].status == "Completed"
        search = client.jobs.get(children["search"].name)
        assert search.properties["best_child_run_id"] == f"{job.name}.search.trial_1"
        assert float(search.properties["score"]) == 0.5
        trials = list(client.jobs.list(parent_job_name=search.name))
        assert [json.loads(one.tags["hyperparameters"])["n"] for one in trials] == [1, 2, 3]
        assert [one.properties.get("azureml.isreused") for one in trials] == [reused] * 3
    client.jobs.download(f"{first.name}.search", download_path=tmp_path / "child", all=True)
    assert (tmp_path / "child" / "named-outputs" / "found" / "n.txt").read_text() == "2\n"


def test_a_file_with_a_sweep_as_a_node_runs(client, plain, wait, tmp_path):
    (tmp_path / "try.yml").write_text(TRY)
    (tmp_path / "search.yml").write_text(SEARCH)
    found = wait(client.jobs.create_or_update(load_job(tmp_path / "search.yml")).name)
    assert found.status == "Completed"
    client.jobs.download(f"{found.name}.use", download_path=tmp_path, all=True)
    assert 0.1 <= float((tmp_path / "artifacts" / "outputs" / "slope.txt").read_text()) <= 0.9


def test_all_that_is_wrong_with_a_search_space_is_told_at_once(client, plain):
    trial = command(command="echo ${{inputs.a}} ${{inputs.b}}", inputs={"a": 1, "b": 1}, environment=plain)
    swept = trial(a=Uniform(3, 1), b=Choice([{"deep": 1}])).sweep(
        sampling_algorithm="grid", primary_metric="loss", goal="minimize", max_total_trials=5000
    )
    with pytest.raises(HttpResponseError) as refused:
        client.jobs.create_or_update(swept)
    for fault in ("min_value is 3, more than", "b is choice: a value isn't", "is 5000"):
        assert fault in str(refused.value)
