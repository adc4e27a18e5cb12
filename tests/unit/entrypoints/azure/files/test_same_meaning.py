"""`mafunzo create -f` and the Azure SDK's `load_job` make the same job of a file: the table of files goes both ways."""

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.store.codec import encode
from mafunzo.entrypoints.azure.files.creation import create
from mafunzo.errors import MafunzoError
from tests.support.azure_bench import Bench, azure_bench
from tests.support.azure_sdk import sdk_client

ENVIRONMENT = "environment: azureml:local@latest"
DEFAULTS = 'settings: {default_compute: "azureml:local"}'
COMPONENT = "name: part\nversion: 1\ntype: command\n" + ENVIRONMENT
BESIDE: dict[str, str] = {
    "src/a.py": "print(1)",
    "lib/x.txt": "x",
    "shared.txt": "y",
    "includes.yml": f"{COMPONENT}\ncommand: ls\ncode: ./src\nadditional_includes: [./lib, shared.txt]\n",
    "only_includes.yml": f"{COMPONENT}\ncommand: ls\nadditional_includes: [lib]\n",
    "optional.yml": f"""{COMPONENT}
inputs:
  day: {{type: string}}
  labels: {{type: string, optional: true, default: plain}}
  note: {{type: string, optional: true}}
  extra: {{type: uri_file, optional: true}}
command: >-
  echo --day ${{{{inputs.day}}}} $[[--labels ${{{{inputs.labels}}}}]] $[[--note ${{{{inputs.note}}}}]]
  $[[--extra ${{{{inputs.extra}}}}]]
""",
    "try.yml": f"""{COMPONENT}
inputs:
  slope: {{type: number}}
  shift: {{type: integer, default: 0}}
outputs: {{found: {{type: uri_folder}}}}
command: echo ${{{{inputs.slope}}}} ${{{{inputs.shift}}}} > ${{{{outputs.found}}}}/slope.txt
""",
    "inner.yml": f"""
type: pipeline
name: inner
version: 1
inputs: {{a: {{type: number, default: 1}}}}
outputs: {{o: {{type: uri_folder}}}}
jobs:
  write:
    command: echo ${{{{inputs.a}}}} > ${{{{outputs.o}}}}/x
    inputs: {{a: "${{{{parent.inputs.a}}}}"}}
    outputs: {{o: "${{{{parent.outputs.o}}}}"}}
    {ENVIRONMENT}
    compute: azureml:local
""",
}


def command(text: str) -> str:
    return f"$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json\n{ENVIRONMENT}\ncompute: azureml:local\n{text}"


def pipeline(text: str) -> str:
    return f"$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json\ntype: pipeline\n{text}"


FILES = {
    "values that are zero, false or empty": command(
        "command: echo ${{inputs.count}} ${{inputs.share}} ${{inputs.is_on}} [${{inputs.text}}]\n"
        'inputs: {count: 0, share: 0.0, is_on: false, text: ""}\n'
    ),
    "an output whose path has names to be filled in": command(
        "command: echo jambo > ${{outputs.made}}/a.txt\noutputs:\n  made:\n    type: uri_folder\n"
        "    path: azureml://datastores/${{default_datastore}}/paths/b05/${{name}}/${{output_name}}\n"
    ),
    "an output at the datastore's root": command(
        "command: echo hi > ${{outputs.o}}/a\n"
        "outputs: {o: {type: uri_folder, path: azureml://datastores/workspaceblobstore/paths/}}\n"
    ),
    "variables that take inputs": command(
        'command: echo $X\ncode: src\ninputs: {x: 5, day: "2026-01-01"}\n'
        'environment_variables: {X: "${{inputs.x}}", Y: "d-${{inputs.day}}"}\n'
    ),
    "a pipeline's output with a name in its path": pipeline(
        "outputs:\n  greeting:\n    type: uri_file\n"
        "    path: azureml://datastores/workspaceblobstore/paths/b05/${{name}}/greeting.txt\n"
        f"jobs:\n  greet:\n    command: echo jambo > ${{{{outputs.greeting}}}}\n    {ENVIRONMENT}\n"
        "    compute: azureml:local\n    outputs: {greeting: '${{parent.outputs.greeting}}'}\n"
    ),
    "a node's output with names in its path": pipeline(
        f"{DEFAULTS}\njobs:\n  one:\n    command: echo hi > ${{{{outputs.o}}}}/a\n    {ENVIRONMENT}\n    outputs:\n      o:\n"
        "        type: uri_folder\n"
        '        path: "azureml://datastores/${{default_datastore}}/paths/n/${{name}}/${{output_name}}"\n'
    ),
    "a path that an earlier node writes": pipeline(
        f"{DEFAULTS}\njobs:\n  one:\n    command: echo hi > ${{{{outputs.o}}}}/a\n    {ENVIRONMENT}\n"
        "    outputs: {o: {type: uri_folder, path: azureml://datastores/workspaceblobstore/paths/mid}}\n"
        f"  two:\n    command: ls ${{{{inputs.i}}}}\n    {ENVIRONMENT}\n"
        "    inputs: {i: {type: uri_folder, path: azureml://datastores/workspaceblobstore/paths/mid/}}\n"
    ),
    "settings that mean nothing here": pipeline(
        "settings: {default_compute: 'azureml:local', default_datastore: 'azureml:workspaceblobstore', whatever: 3}\n"
        f"jobs:\n  one: {{command: echo hi, {ENVIRONMENT}}}\n"
    ),
    "optional inputs": pipeline(
        f"{DEFAULTS}\njobs:\n  none_given: {{component: 'file:./optional.yml', inputs: {{day: '2026-01-05'}}}}\n"
        "  empty_given: {component: ./optional.yml, inputs: {day: '2026-01-05', note: ''}}\n"
    ),
    "inputs that the component doesn't declare": pipeline(
        f"{DEFAULTS}\njobs:\n  one: {{type: pipeline, component: ./inner.yml, inputs: {{a: 3, b: 2}}}}\n"
        "  two: {component: ./optional.yml, inputs: {day: x, b: 2}}\n"
    ),
    "a pipeline's input to a pipeline": pipeline(
        f"{DEFAULTS}\ninputs: {{b: 4}}\n"
        "jobs:\n  one: {type: pipeline, component: ./inner.yml, inputs: {a: '${{parent.inputs.b}}'}}\n"
    ),
    "code with additional includes": pipeline(
        f"{DEFAULTS}\njobs:\n  one: {{component: ./includes.yml}}\n  two: {{component: ./only_includes.yml}}\n"
    ),
    "a sweep as a node, whose best output goes on": pipeline(
        f"{DEFAULTS}\njobs:\n  search:\n    type: sweep\n    inputs: {{shift: 0, whatever: 1}}\n"
        "    outputs: {found: {type: uri_folder}}\n    sampling_algorithm: random\n    trial: ./try.yml\n"
        "    search_space: {slope: {type: uniform, min_value: 0.1, max_value: 0.9}}\n"
        "    objective: {goal: minimize, primary_metric: score}\n"
        "    limits: {max_total_trials: 2, max_concurrent_trials: 1, timeout: 600, trial_timeout: 60}\n"
        "  use:\n    inputs: {model: '${{parent.jobs.search.outputs.found}}'}\n"
        f"    command: cat ${{{{inputs.model}}}}/slope.txt\n    {ENVIRONMENT}\n"
    ),
    "sweeps with all that they may say": pipeline(
        f"{DEFAULTS}\ninputs: {{b: 4}}\noutputs: {{best: {{type: uri_folder}}}}\n"
        "jobs:\n  search:\n    type: sweep\n    inputs: {shift: '${{parent.inputs.b}}'}\n    display_name: Look\n"
        "    outputs: {found: '${{parent.outputs.best}}'}\n    compute: azureml:local\n"
        "    sampling_algorithm: {type: random, seed: 7, rule: sobol}\n    trial: file:./try.yml\n"
        "    early_termination: {type: truncation_selection, truncation_percentage: 20, delay_evaluation: 1}\n"
        "    search_space: {slope: {type: qnormal, mu: 0.5, sigma: 0.1, q: 0.01}}\n"
        "    objective: {goal: maximize, primary_metric: score}\n    limits: {max_total_trials: 3}\n"
        "    resources: {instance_count: 2}\n"
        "  inner:\n    type: sweep\n    sampling_algorithm: grid\n"
        f"    trial:\n      command: echo ${{{{inputs.day}}}}\n      {ENVIRONMENT}\n      inputs: {{day: {{type: string}}}}\n"
        "    search_space: {day: {type: choice, values: [a, b]}}\n"
        "    early_termination: {type: bandit, slack_factor: 0.1, evaluation_interval: 2}\n"
        "    objective: {goal: minimize, primary_metric: score}\n    limits: {max_total_trials: 9}\n"
    ),
    "a node with a name for people": pipeline(
        f"{DEFAULTS}\njobs:\n  one: {{command: echo hi, {ENVIRONMENT}, display_name: Say Hi}}\n"
    ),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with azure_bench(tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(bench: Bench) -> Iterator[Any]:
    with sdk_client(bench) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    for name, text in BESIDE.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def planned(bench: Bench, job: str) -> str:
    """Return the steps of a job as text, without what tells one submission from another."""
    specs = [encode(step.spec) for step in bench.workspace.jobs.get(job).steps]
    for spec in specs:  # the SDK sets this of its own accord for command jobs; nothing reads it
        if spec["environment"].pop("AZUREML_COMPUTE_USE_COMMON_RUNTIME", None) or spec["component"] == "command:1":
            del spec["code"]  # the hash of its interface, which has that too
    text = json.dumps(specs, sort_keys=True, indent=1).replace(job, "JOB")
    return re.sub(r"azureml_anonymous:[\w-]+", "azureml_anonymous", text)


@pytest.mark.parametrize("what", FILES)
def test_a_file_means_the_same_both_ways(what: str, bench: Bench, client: Any, folder: Path) -> None:
    from azure.ai.ml import load_job

    number = list(FILES).index(what)
    (file := folder / f"job{number}.yml").write_text(FILES[what])
    create(bench.workspace, file, {"name": f"file{number}"})
    job = load_job(str(file))
    job.name = f"sdk{number}"
    client.jobs.create_or_update(job)
    ways = [planned(bench, name).splitlines() for name in (f"file{number}", f"sdk{number}")]
    assert not list(difflib.unified_diff(*ways))
    shown = [client.jobs.get(name) for name in (f"file{number}", f"sdk{number}")]
    places = [{name: str(output.path) for name, output in one.outputs.items()} for one in shown]
    assert str(places[0]).replace("file", "sdk") == str(places[1]) and "${{" not in str(places)


REFUSED = {
    "a parallel node": pipeline(
        f"{DEFAULTS}\njobs:\n  one:\n    type: parallel\n    mini_batch_size: '1'\n    input_data: '${{{{inputs.x}}}}'\n"
        "    inputs: {x: {type: uri_folder, path: azureml://datastores/workspaceblobstore/paths/a}}\n"
        f"    task: {{type: run_function, code: src, entry_script: a.py, {ENVIRONMENT}}}\n"
    ),
    "a sweep whose values don't fit": pipeline(
        f"{DEFAULTS}\njobs:\n  search:\n    type: sweep\n    sampling_algorithm: grid\n    trial: ./try.yml\n"
        "    search_space: {slope: {type: uniform, min_value: 3, max_value: 1}}\n    limits: {max_total_trials: 2}\n"
        "    objective: {goal: minimize, primary_metric: score}\n"
    ),
    "a sweep over what its trial doesn't take": pipeline(
        f"{DEFAULTS}\njobs:\n  search:\n    type: sweep\n    sampling_algorithm: random\n    trial: ./try.yml\n"
        "    search_space: {slop: {type: uniform, min_value: 0, max_value: 1}}\n    limits: {max_total_trials: 2}\n"
        "    inputs: {slope: 1}\n    objective: {goal: minimize, primary_metric: score}\n"
    ),
    "a name that isn't filled in": command(
        "command: echo hi > ${{outputs.o}}/a\n"
        'outputs: {o: {type: uri_folder, path: "azureml://datastores/workspaceblobstore/paths/${{nome}}/"}}\n'
    ),
    "a variable that takes an input which isn't there": command(
        'command: echo $X\ninputs: {x: 5}\nenvironment_variables: {X: "${{inputs.y}}"}\n'
    ),
}
TOLD = (
    "Parallel steps aren't run here.",
    "Node 'search': search space: slope is uniform: min_value is 3, more than max_value, 1.",
    "step 'search': slop is not a parameter. Did you mean slope?",
    "nothing else is",
    "environment variable X has ${{inputs.y}}",
)


@pytest.mark.parametrize(("what", "told"), list(zip(REFUSED, TOLD, strict=True)))
def test_a_file_is_refused_for_the_same_reason_both_ways(
    what: str, told: str, bench: Bench, client: Any, folder: Path
) -> None:
    from azure.ai.ml import load_job
    from azure.core.exceptions import HttpResponseError

    (file := folder / "refused.yml").write_text(REFUSED[what])
    with pytest.raises(MafunzoError) as ours:
        create(bench.workspace, file, {})
    with pytest.raises(HttpResponseError) as theirs:
        client.jobs.create_or_update(load_job(str(file)))
    assert told in str(ours.value) and told in str(theirs.value)
    assert "is missing" not in str(theirs.value)


def test_what_a_file_says_in_vain_is_told_once(bench: Bench, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = FILES["inputs that the component doesn't declare"].replace("default_compute", "whatever: 3, default_compute")
    (file := folder / "vain.yml").write_text(text)
    create(bench.workspace, file, {})
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in told] == ["settings.whatever", "jobs.one.inputs.b", "jobs.two.inputs.b"]


BATCH_DEPLOYMENTS = {
    "below settings": (
        "$schema: https://azuremlschemas.azureedge.net/latest/modelBatchDeployment.schema.json\ntype: model\n"
        "compute: azureml:local\nresources: {instance_count: 1}\n"
        "settings: {mini_batch_size: 4, max_concurrency_per_instance: 2, output_action: append_row, error_threshold: -1}\n"
    ),
    "beside the other keys": (
        "$schema: https://azuremlschemas.azureedge.net/latest/batchDeployment.schema.json\nmini_batch_size: 8\n"
        "output_file_name: answers.jsonl\nlogging_level: info\ntags: {team: a}\n"
        "properties: {mafunzo.max_new_tokens: '7'}\n"
    ),
}


@pytest.mark.parametrize("what", BATCH_DEPLOYMENTS)
def test_a_batch_endpoint_and_its_deployment_mean_the_same_both_ways(
    what: str, bench: Bench, client: Any, tmp_path: Path
) -> None:
    from azure.ai.ml import load_batch_deployment, load_batch_endpoint
    from azure.ai.ml.entities._load_functions import load_model_batch_deployment

    number, files = list(BATCH_DEPLOYMENTS).index(what), (tmp_path / "endpoint.yml", tmp_path / "blue.yml")
    load = load_model_batch_deployment if what == "below settings" else load_batch_deployment
    files[0].write_text("$schema: x/batchEndpoint.schema.json\nname: NAME\ndescription: d\nauth_mode: aad_token\n")
    files[1].write_text(f"{BATCH_DEPLOYMENTS[what]}name: blue\nendpoint_name: NAME\nmodel: azureml:chat:1\n")
    for way in ("file", "sdk"):
        name = f"{way}{number}"
        for file in files:
            file.write_text(file.read_text().replace("NAME", name))
        if way == "file":
            assert [create(bench.workspace, file, {}).name for file in files] == [name, "blue"]
        else:
            client.batch_endpoints.begin_create_or_update(load_batch_endpoint(files[0])).result()
            client.batch_deployments.begin_create_or_update(load(files[1])).result()
        for file in files:
            file.write_text(file.read_text().replace(name, "NAME"))
    endpoints = [bench.workspace.batch_endpoints.get(f"{way}{number}") for way in ("file", "sdk")]
    assert endpoints[0].description == endpoints[1].description == "d"
    made, sent = (bench.workspace.batch_endpoints.deployment(f"{way}{number}", "blue") for way in ("file", "sdk"))
    for field in ("model", "parameters", "compute", "tags", "description"):
        assert getattr(made, field) == getattr(sent, field), field
