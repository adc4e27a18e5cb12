"""Every verb of the command line once, on one home and one tiny job: what it prints, and how it ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.entities.job import Job
from tests.support.command_line import Shell
from tests.support.tuned_home import BASE, CONVERSATIONS, PARAMETERS, tuned_home

QUICK = ["max_seq_length=128", "forgetting_prompts=0", "generation_rows=2"]
TINY = ["finetune", "--model", "tiny-llama", "--train", CONVERSATIONS, *QUICK]
SHORT = ["--set", "forgetting_prompts=0", "--set", "generation_rows=2", "--set", "max_evaluation_rows=6"]
UNPROVEN = ["learning_rate=1e-7", "max_steps=1"]
"""Next to nothing is learned, and the test's rows are too few for any gate."""
HELLO = {"messages": [{"role": "user", "content": "Habari!"}], "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A home in which a fine-tuning has ended, and whose server runs."""
    shell = Shell(tuned_home(tmp_path_factory))
    told = as_json(shell, "up", "--detach")
    assert told["openai"].endswith("/v1")
    yield shell
    report = as_json(shell, "down")
    assert any("server" in process["purpose"] for process in report["processes"])
    assert "Nothing was running" in shell("down")


@pytest.fixture(scope="module")
def job(shell: Shell) -> str:
    """The job that has completed."""
    return str(as_json(shell, "job", "list")[-1]["name"])


@pytest.fixture(scope="module")
def model(shell: Shell, job: str) -> str:
    asset = as_json(shell, "model", "register", job, "--name", "greeter")
    assert asset["properties"]["job"] == job
    return "greeter:1"


@pytest.fixture(scope="module")
def endpoint(shell: Shell, model: str) -> str:
    told = as_json(shell, "deploy", model, "--endpoint", "greeter")
    assert told["deployment"]["status"] == "healthy"
    assert told["endpoint"]["traffic_percent"] == {"default": 100}
    return "greeter"


def as_json(shell: Shell, *words: str | Path, code: int = 0) -> Any:
    """Return the JSON that a command prints; what it tells on the other stream stands behind it."""
    return json.JSONDecoder().raw_decode(shell(*words, "--json", code=code))[0]


def test_waiting_jobs_show_their_priority_and_their_place(tmp_path):
    with Workspace(tmp_path / "home") as workspace:
        for name, priority in {"later": 0, "sooner": 5}.items():
            workspace.records.jobs.add(Job(name, name, "talk", "pipeline", priority=priority), [])
    shell = Shell(tmp_path / "home")
    listed = {job["name"]: (job["place"], job["priority"]) for job in as_json(shell, "job", "list")}
    assert listed == {"sooner": (1, 5), "later": (2, 0)}
    assert as_json(shell, "job", "show", "later")["job"]["place"] == 2
    assert "priority" in shell("job", "list")
    assert "place in the queue  2" in shell("job", "show", "later")


def test_a_job_that_is_asked_for_again_takes_its_steps_from_the_cache_and_is_followed_to_its_end(shell, job):
    again = [f"{name}={str(value).lower()}" for name, value in PARAMETERS.items()]
    name = as_json(shell, "finetune", "--model", BASE, "--train", CONVERSATIONS, "--detach", *again)["name"]
    lines = [json.loads(line) for line in shell("job", "stream", name, "--json").splitlines()]
    assert [line["status"] for line in lines if line["event"] == "job"][-1] == "completed"
    assert [step["status"] for step in as_json(shell, "job", "show", name)["steps"]] == ["cached"] * 5
    shell("job", "delete", name)


def test_a_job_shows_its_steps_logs_and_metrics(shell, job):
    shown = as_json(shell, "job", "show", job)
    assert shown["job"]["status"] == "completed" and shown["job"]["place"] is None
    assert [step["status"] for step in shown["steps"]] == ["completed"] * 5
    assert "package_model" in shell("job", "show", job)
    assert "--- finetune" in shell("job", "logs", job)
    assert "prepare_data" not in shell("job", "logs", job, "--step", "finetune")
    assert as_json(shell, "job", "metrics", job, "--step", "finetune")["finetune"][0]["step"] >= 0
    assert "train_loss" in shell("job", "metrics", job)


def test_a_job_s_outputs_become_plain_files(shell, job, tmp_path):
    told = as_json(shell, "job", "download", job, "--to", tmp_path, "--output", "mlflow_model_folder")
    assert told == {"folders": [str(tmp_path / "mlflow_model_folder")]}
    assert (tmp_path / "mlflow_model_folder" / "MLmodel").exists()


def test_a_job_without_outputs_says_so(shell, tmp_path):
    (tmp_path / "job.yml").write_text("type: command\nname: silent\ncommand: 'true'\n")
    told = shell("create", "-f", tmp_path / "job.yml")
    assert "Log: mafunzo job logs silent" in told and "job download" not in told
    told = shell("job", "download", "silent", "--to", tmp_path / "out")
    assert told == "Job silent has no outputs. What it printed: mafunzo job logs silent\n"
    assert as_json(shell, "job", "download", "silent", "--to", tmp_path / "out") == {"folders": []}


@pytest.mark.parametrize("command", ["exit 3", "echo why; exit 3"])
def test_a_failed_command_is_shown_without_announcing_lines(shell, tmp_path, command):
    (tmp_path / "job.yml").write_text(f"type: command\ncommand: {command}\n")
    shell("create", "-f", tmp_path / "job.yml", code=1)
    name = as_json(shell, "job", "list")[0]["name"]
    told = shell("job", "show", name)
    assert told.count("ended with exit code 3") == 2 and "the last lines of" not in told


def test_a_running_job_is_cancelled_and_deleted(shell, job):
    name = as_json(shell, *TINY, "--detach", "num_train_epochs=100", "seed=7")["name"]
    assert "is queued" in (told := shell("job", "delete", name, code=3)) or "is running" in told
    assert as_json(shell, "job", "cancel", name)["is_cancel_requested"]
    assert "was cancelled" in shell("job", "stream", name, code=1)
    assert as_json(shell, "job", "delete", name)["deleted"] == name
    assert f"No job '{name}'" in shell("job", "show", name, code=2)
    assert "has ended already: completed" in shell("job", "cancel", job)


def test_a_job_that_misses_its_gate_is_refused_and_its_model_cannot_be_registered(shell, job):
    told = shell(*TINY, *UNPROVEN, "gate=better", "gate_metric=loss", code=3)
    assert "gate" in told
    name = as_json(shell, "job", "list")[0]["name"]
    assert as_json(shell, "job", "show", name)["job"]["status"] == "failed"
    assert f"Job {name} is failed" in shell("model", "register", name, "--name", "refused", code=3)


def test_a_model_is_shown_listed_archived_and_written_as_files(shell, model, tmp_path):
    assert as_json(shell, "model", "show", model)["key"]["version"] == "1"
    assert "greeter" in shell("model", "list", "--name", "greeter")
    assert as_json(shell, "model", "archive", model)["is_archived"]
    assert as_json(shell, "model", "list", "--name", "greeter") == []
    assert len(as_json(shell, "model", "list", "--name", "greeter", "--archived")) == 1
    assert "is shown" in shell("model", "archive", model, "--undo")
    assert as_json(shell, "model", "download", model, "--to", tmp_path / "out") == {"folder": str(tmp_path / "out")}
    assert (tmp_path / "out" / "MLmodel").exists()


def test_only_a_job_has_outputs_to_choose_from(shell, model, tmp_path):
    shell("model", "download", model, "--to", tmp_path / "out")
    told = shell("model", "register", tmp_path / "out", "--name", "x", "--output", "pytorch_model_folder", code=2)
    assert "is a folder, and only a job has outputs" in told
    assert as_json(shell, "model", "import", "tiny-llama")["status"] == "completed"


def test_lineage_ends_with_1_after_a_stored_byte_was_changed(shell, job, model):
    assert "[verified]" in shell("lineage", model)
    with Workspace(shell.home) as workspace:
        artifact = workspace.jobs.get(job).output_artifact("evaluation_result")
        stored = workspace.artifacts.open_file(artifact, "evaluationResult/metrics.json")
    body = stored.read_bytes()
    stored.chmod(0o644)
    try:
        stored.write_bytes(body.replace(b"{", b"[", 1))
        assert "metrics.json: its bytes were changed" in shell("lineage", model, code=1)
    finally:
        stored.write_bytes(body)
        stored.chmod(0o444)
    assert as_json(shell, "lineage", job)["links"]


def test_data_is_mirrored_fetched_checked_and_split(shell, tmp_path):
    (mirror := tmp_path / "mirror").mkdir()
    (mirror / "train.jsonl").write_bytes(CONVERSATIONS.read_bytes())
    assert as_json(shell, "data", "mirror", "ours/talk", mirror) == {"repository": "ours/talk", "folder": str(mirror)}
    (file,) = as_json(shell, "data", "get", "ours/talk", "--to", tmp_path / "got", "--percent", "50").values()
    assert as_json(shell, "data", "check", file)["good"] == 30
    shares = as_json(shell, "data", "split", file, "--to", tmp_path / "parts", "--seed", "1")
    assert {name: share["rows"] for name, share in shares.items()} == {"train": 24, "validation": 3, "test": 3}


def test_machines_and_environments_are_shown(shell):
    assert as_json(shell, "compute", "show", "local")["size"]["cpus"] >= 1
    assert "A100" in shell("compute", "show", "Standard_NC24ads_A100_v4")
    assert "Did you mean" in shell("compute", "show", "Standard_NC24ads_A100_v5", code=2)
    assert as_json(shell, "environment", "show", "local")["name"] == "local"
    assert "No environment is called 'none'" in shell("environment", "show", "none", code=2)


def test_an_endpoint_answers_and_shows_itself(shell, endpoint, tmp_path):
    (listed,) = as_json(shell, "endpoint", "list")
    assert listed["traffic_percent"] == {"default": 100}
    assert "healthy" in shell("endpoint", "list") and "healthy" in shell("endpoint", "show", endpoint)
    (tmp_path / "hello.json").write_text(json.dumps(HELLO))
    answer = json.loads(shell("endpoint", "invoke", endpoint, "--request-file", tmp_path / "hello.json"))
    said = shell("endpoint", "chat", endpoint, "--message", "Habari!", "--max-tokens", "4")
    assert said.strip() == answer["choices"][0]["message"]["content"].strip()
    keys = as_json(shell, "endpoint", "keys", endpoint)
    renewed = as_json(shell, "endpoint", "keys", endpoint, "--regenerate", "secondary")
    assert keys["primary"] == renewed["primary"] and keys["secondary"] != renewed["secondary"]
    (proof,) = as_json(shell, "endpoint", "verify", endpoint)
    assert (proof["deployment"], proof["result"]) == ("default", "verified")
    assert as_json(shell, "endpoint", "logs", endpoint, "--lines", "5").keys() == {"default"}


def test_a_second_deployment_takes_its_share_and_gives_it_back(shell, model, endpoint):
    shell("deploy", model, "--endpoint", endpoint, "--deployment", "blue", "--traffic", "30")
    shares = as_json(shell, "endpoint", "traffic", endpoint, "default=60", "blue=40")["traffic_percent"]
    assert shares == {"default": 60, "blue": 40}
    assert "The shares add up to 120, expected 100" in shell(
        "endpoint", "traffic", endpoint, "default=60", "blue=60", code=2
    )
    assert "Deleted greeter/blue" in shell("endpoint", "delete", endpoint, "--deployment", "blue")
    shown = as_json(shell, "endpoint", "show", endpoint)
    assert [found["name"] for found in shown["deployments"]] == ["default"]
    assert shown["endpoint"]["traffic_percent"] == {"default": 100}
    assert "no deployment 'blue'" in shell("endpoint", "delete", endpoint, "--deployment", "blue", code=2)


def test_a_refused_deployment_ends_with_3_and_leaves_nothing(shell, model, endpoint, tmp_path):
    shell("model", "download", model, "--to", tmp_path / "spoiled")
    (template,) = (tmp_path / "spoiled").glob("data/*/chat_template.jinja")
    template.write_text(template.read_text().replace("| trim", "| upper"))
    shell("model", "register", tmp_path / "spoiled", "--name", "spoiled")
    assert "token ids differ" in shell("deploy", "spoiled", "--endpoint", "new", code=3)
    assert [found["name"] for found in as_json(shell, "endpoint", "list")] == [endpoint]
    assert "traffic is 50" in shell("deploy", model, "--endpoint", "new", "--traffic", "50", code=2)
    assert as_json(shell, "model", "delete", "spoiled")["freed_bytes"] > 0


@pytest.mark.slow
def test_compare_sets_the_tuned_model_against_its_base(shell, model):
    assert "Report: mafunzo job download" in shell("compare", model, "--data", CONVERSATIONS, *SHORT)


def test_deleting_says_what_holds_the_bytes_and_then_frees_them(shell, job, model, endpoint):
    assert "is served by greeter/default" in shell("model", "delete", model, code=3)
    assert as_json(shell, "endpoint", "delete", endpoint)["deleted"] == {"endpoint": endpoint, "deployment": None}
    assert as_json(shell, "endpoint", "list") == []
    assert model in shell("job", "delete", job, code=3)
    told = shell("model", "delete", model)
    assert f"job {job} still holds its outputs; mafunzo job delete {job} frees them" in told
    for other in as_json(shell, "job", "list"):
        if other["name"] != job:
            shell("job", "delete", other["name"])
    assert as_json(shell, "job", "delete", job)["freed_bytes"] > 100_000
    assert as_json(shell, "job", "list") == []
