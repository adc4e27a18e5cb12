"""A home that version 0.1.0 made and that was cut off in the middle: it opens, answers, goes on and serves as before.

`tests/fixtures/README.md` says what is in it. Each test that changes something has a copy of its own.
"""

import copy
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.home_answers import (
    GOLDEN,
    WORKSPACE,
    answers,
    known_before,
    opened_over_https,
    seen_by_users,
    unpack,
    with_arm_ids,
)

CONVERSATIONS = Path(__file__).parent.parent.parent / "examples" / "conversations.jsonl"
PATIENCE_S = 1500
SLOW_S = 2 * PATIENCE_S
UNFINISHED = {"running-finetune", "retried-finetune", "queued-finetune", "queued-pipeline", "queued-command"}
HELLO = {"messages": [{"role": "user", "content": "Habari!"}], "max_tokens": 4, "temperature": 0}
STAND_IN = """
import json, os, pathlib, sys, time, psutil
folder, go = map(pathlib.Path, sys.argv[1:])
me = {"pid": os.getpid(), "pid_start": psutil.Process().create_time()}
draft = folder / "process.json.part"
draft.write_text(json.dumps({**me, "started_at": time.time(), "command": sys.argv}))
draft.replace(folder / "process.json")
print("stands in", flush=True)
while not go.exists():
    time.sleep(0.05)
for name in go.read_text().split():
    (folder / "outputs" / name).mkdir(parents=True, exist_ok=True)
    (folder / "outputs" / name / "made").write_text("by the stand-in")
draft.write_text(json.dumps({**me, "exit_code": 0, "signal": None, "started_at": 0.0, "ended_at": time.time()}))
draft.replace(folder / "exit.json")
"""
"""The runner of a step that 0.1.0 started and that still runs: it writes what that runner wrote, and can be told to end."""


# What it answers


@pytest.fixture(scope="module")
def golden() -> Any:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the home answers now."""
    return answers(unpack(tmp_path_factory.mktemp("old")))


NOUNS = {
    "command line": ("job", "model", "component", "environment", "endpoint", "compute", "user", "lineage"),
    "https": (
        *(f"{WORKSPACE}/{noun}" for noun in ("models", "data", "components", "environments", "codes", "computes")),
        *(f"{WORKSPACE}/{noun}" for noun in ("onlineEndpoints", "jobs", "runs")),
        "/subscriptions/00000000-0000-0000-0000-000000000/resourceGroups/mafunzo/providers/"
        "Microsoft.MachineLearningServices/registries/azureml",
        "/mafunzo.blob.local",
    ),
}


def test_all_that_is_asked_belongs_to_a_noun(golden):
    for way, nouns in NOUNS.items():
        assert [asked for asked in golden[way] if not asked.startswith(nouns)] == []


@pytest.mark.parametrize(("way", "noun"), [(way, noun) for way, nouns in NOUNS.items() for noun in nouns])
def test_a_noun_answers_as_before(way, noun, golden, told):
    before, now = (
        {asked: answer for asked, answer in of[way].items() if asked.startswith(noun)} for of in (golden, told)
    )
    assert before and sorted(now) == sorted(before)
    for asked, answer in before.items():
        if way == "command line":
            expected, shown = seen_by_users(answer), seen_by_users(now[asked])
            assert known_before(expected, shown) == expected, asked
        else:
            assert now[asked] == (with_arm_ids(answer) if noun.endswith("/jobs") else answer), asked


def test_a_job_of_each_status_is_among_them(golden):
    statuses = {one["name"]: one["status"] for one in golden["command line"]["job list"]}
    assert set(statuses.values()) == {"completed", "failed", "canceled", "running", "queued"}


# A client that asks again


SENT = ("sdk-command", "sdk-bindings", "sdk-sweep", "sdk-pipeline", "sdk-finetuning", "sdk-failed", "queued-pipeline")


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a copy in which nothing runs."""
    with opened_over_https(unpack(tmp_path_factory.mktemp("old"))) as client:
        yield client


def put(https: httpx.Client, name: str, body: Any) -> tuple[int, Any]:
    answer = https.put(f"{WORKSPACE}/jobs/{name}", json=body)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("name", SENT)
def test_a_job_that_is_sent_again_is_the_same_job(name, golden, https):
    before = https.get(f"{WORKSPACE}/jobs/{name}").json()
    assert put(https, name, golden["sent"][name]) == (201, before)


@pytest.mark.parametrize("name", SENT)
def test_what_is_said_of_a_job_may_change_when_it_is_sent_again(name, golden, https):
    body = golden["sent"][name]
    said = {**body["properties"], "tags": {"team": "b"}, "description": "said later"}
    status, now = put(https, name, {**body, "properties": said})
    assert (status, now["properties"]["tags"], now["properties"]["description"]) == (201, {"team": "b"}, "said later")
    assert put(https, name, body)[0] == 201


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        pytest.param("sdk-command", "inputs.number.value", "4", id="an input of a command"),
        pytest.param("sdk-command", "environmentVariables.GREETING", "the sun", id="a variable"),
        pytest.param("sdk-command", "outputs.report.assetVersion", "8", id="an output's version"),
        pytest.param("sdk-bindings", "inputs.word.value", "other", id="an input of a pipeline"),
        pytest.param("sdk-bindings", "jobs.one.limits.timeout", "PT3M", id="a node's limit"),
        pytest.param("sdk-sweep", "limits.maxTotalTrials", 9, id="a sweep's limit"),
        pytest.param("sdk-sweep", "objective.primaryMetric", "accuracy", id="a sweep's metric"),
        pytest.param("sdk-pipeline", "jobs.node.inputs.learning_rate.value", "1e-3", id="a parameter"),
        pytest.param("sdk-finetuning", "fineTuningDetails.hyperParameters.max_steps", "2", id="a hyperparameter"),
        pytest.param("queued-pipeline", "jobs.node.inputs.max_steps.value", "2", id="a queued job's parameter"),
    ],
)
def test_other_settings_under_the_same_name_are_refused(name, setting, value, golden, https):
    body = copy.deepcopy(golden["sent"][name])
    *parents, last = setting.split(".")
    place = functools.reduce(dict.__getitem__, parents, body["properties"])
    assert place[last] != value
    place[last] = value
    status, refusal = put(https, name, body)
    assert status == 409
    assert f"Job {name} exists already, with other settings" in refusal["error"]["message"]


@pytest.mark.parametrize("name", ["cli-finetune", "file-command-job"])
def test_a_job_that_was_not_sent_over_https_is_not_sent_again(name, golden, https):
    assert put(https, name, golden["sent"]["sdk-command"])[0] == 409


# How it goes on


class Shell:
    """Runs the console script on a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = os.environ | {"MAFUNZO_HOME": str(home), "MAFUNZO_PORT": "0", "NO_COLOR": "1"}

    def run(self, *words: Any) -> "subprocess.CompletedProcess[str]":
        argv = [str(Path(sys.executable).parent / "mafunzo"), *map(str, words)]
        return subprocess.run(argv, capture_output=True, text=True, env=self.environment, check=False)

    def __call__(self, *words: Any, code: int = 0) -> str:
        done = self.run(*words)
        assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *words: Any) -> Any:
        return json.loads(self(*words, "--json"))

    def step(self, job: str, step: str) -> Any:
        return next(one for one in self.json("job", "show", job)["steps"] if one["spec"]["name"] == step)

    def until(self, is_reached: Callable[[], bool], what: str) -> None:
        """Wait until something is so; fails after a while that a slow machine doesn't need."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_reached():
            assert time.monotonic() < deadline, f"{what}: {self.json('job', 'list')}"
            time.sleep(2)

    def ended(self, job: str) -> Any:
        """Wait for a job to end; return it with its steps."""
        self.until(lambda: self.json("job", "show", job)["job"]["ended_at"] is not None, f"the end of {job}")
        return self.json("job", "show", job)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """The old home, whose server isn't up yet."""
    shell = Shell(unpack(tmp_path))
    yield shell
    shell("down")


def cancel_all_but(shell: Shell, *names: str) -> None:
    """Cancel what else the old home would go on with, before its server is up."""
    for name in UNFINISHED - set(names):
        shell("job", "cancel", name)


@pytest.mark.slow
@pytest.mark.timeout(SLOW_S)
def test_what_was_cut_off_runs_again_to_its_end(shell):
    cut_off = ("running-finetune", "retried-finetune")
    cancel_all_but(shell, *cut_off)
    shell("up", "--detach")
    for name in cut_off:
        job = shell.ended(name)
        assert job["job"]["status"] == "completed", job
        step = shell.step(name, "finetune")
        assert (step["status"], step["attempt"], step["reason"]) == ("completed", 2, "attempt 1 was cut off")
    assert shell.ended("queued-finetune")["job"]["status"] == "canceled"
    shell("model", "register", "retried-finetune", "--name", "late")
    assert "[verified]" in shell("lineage", "late:1")


@pytest.mark.slow
@pytest.mark.timeout(SLOW_S)
def test_what_was_queued_runs_to_its_end(shell):
    queued = ("queued-pipeline", "queued-command")
    cancel_all_but(shell, *queued)
    shell("up", "--detach")
    for name in queued:
        job = shell.ended(name)
        assert job["job"]["status"] == "completed", job
    assert "hello from nobody" in shell("job", "logs", "queued-command")


def serves(shell: Shell, endpoint: str) -> bool:
    """Return whether an endpoint answers in words once its worker is up."""
    request = shell.home / "hello.json"
    request.write_text(json.dumps(HELLO))

    def is_healthy() -> bool:
        deployments = shell.json("endpoint", "show", endpoint)["deployments"]
        return any(one["status"] == "healthy" and one["verification"] for one in deployments)

    def is_answered() -> bool:  # a worker that was healthy before the power cut is being started again
        return shell.run("endpoint", "invoke", endpoint, "--request-file", request).returncode == 0

    shell.until(is_healthy, f"a healthy {endpoint}")
    shell.until(is_answered, f"an answer of {endpoint}")
    answer = json.loads(shell("endpoint", "invoke", endpoint, "--request-file", request))
    return answer["model"] == endpoint and isinstance(answer["choices"][0]["message"]["content"], str)


PARAMETERS = (
    "apply_lora=true",
    "lora_r=4",
    "learning_rate=1e-3",
    "max_steps=2",
    "max_seq_length=128",
    "per_device_train_batch_size=4",
    "generation_rows=2",
    "forgetting_prompts=2",
    "max_evaluation_rows=4",
)
"""Those of the old home's `cli-finetune`."""


@pytest.mark.slow
@pytest.mark.timeout(SLOW_S)
def test_endpoints_serve_and_the_same_fine_tuning_runs_again_and_serves(shell, tmp_path):
    cancel_all_but(shell)
    train = tmp_path / "train.jsonl"
    train.write_text("\n".join(CONVERSATIONS.read_text().splitlines()[:40]) + "\n")
    words = ("finetune", "--model", "tiny-llama", "--train", train, "--priority", 100, "--detach", *PARAMETERS)
    name = shell.json(*words, "job_name=again")["name"]
    job = shell.ended(name)
    assert job["job"]["status"] == "completed", job
    reasons = [step["reason"] for step in job["steps"] if step["status"] != "cached"]
    assert all(reasons) and (not reasons or any("code of" in reason for reason in reasons)), reasons
    shell("model", "register", name, "--name", "again")
    shell("deploy", "again:1", "--endpoint", "again")
    for endpoint in ("again", "cli-endpoint", "sdk-endpoint"):
        assert serves(shell, endpoint)


@pytest.mark.slow
@pytest.mark.timeout(SLOW_S)
def test_a_step_that_still_runs_is_adopted(shell, tmp_path):
    folder, go = shell.home / "jobs" / "running-finetune" / "finetune" / "1", tmp_path / "go"
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (folder / "process.json").unlink()
    argv = [sys.executable, str(tmp_path / "stand_in.py"), str(folder), str(go)]
    environment = os.environ | {"MAFUNZO_STEP_FOLDER": str(folder.resolve())}
    with subprocess.Popen(argv, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True) as stand_in:
        try:
            assert stand_in.stdout is not None and stand_in.stdout.readline() == "stands in\n"
            shell("up", "--detach")
            (tmp_path / "probe.yml").write_text("type: command\nname: probe\ncommand: 'true'\n")
            shell("create", "-f", tmp_path / "probe.yml", "--detach")
            shell.until(lambda: "waits for" in shell.step("probe", "command")["reason"], "a look at all jobs")
            running = shell.step("running-finetune", "finetune")
            assert (running["status"], running["attempt"]) == ("running", 1)
            go.write_text(" ".join(running["spec"]["outputs"]))
            shell.until(lambda: shell.step("running-finetune", "finetune")["status"] != "running", "its end")
        finally:
            go.touch()
            stand_in.wait()
    done = shell.step("running-finetune", "finetune")
    assert (done["status"], done["attempt"]) == ("completed", 1), done
    assert sorted(done["outputs"]) == sorted(done["spec"]["outputs"])
