"""Tests of `mafunzo finetune` and `mafunzo compare`: what they ask for, and what is refused before anything starts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.jobs import Jobs
from mafunzo.entities.compute import Placement
from mafunzo.entities.job import ArtifactInput, Job, JobStatus, LiteralInput, Step, StepSpec, StepStatus
from tests.support.command_line import Shell
from tests.support.made_estimate import made_estimate

CONVERSATIONS = Path(__file__).parents[4] / "examples" / "conversations.jsonl"
TINY = ["finetune", "--model", "tiny-llama", "--train", CONVERSATIONS]


class Handle:
    """A job in the queue."""

    name = "bright_cat"
    job = Job("bright_cat", "tiny-llama on conversations", "chat", "c:1")

    def stream(self) -> None:
        print("an event")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What fine-tunings were asked for with."""
    calls: list[dict[str, Any]] = []

    def finetune(_: Workspace, **values: Any) -> Any:
        calls.append(values)
        return Handle()

    monkeypatch.setattr(Workspace, "finetune", finetune)
    return calls


def test_options_and_words_are_one_request(shell: Shell, requests: list[dict[str, Any]]) -> None:
    told = shell(*TINY, "--on-bad-row", "skip", "--priority", "3", "lora_r=4", "gate=better")
    assert told == "an event\nRegister it: mafunzo model register bright_cat --name NAME\n"
    assert requests == [
        {
            "model": "tiny-llama",
            "train": CONVERSATIONS,
            "on_bad_row": "skip",
            "priority": 3,
            "lora_r": "4",
            "gate": "better",
        }
    ]


def test_detached_what_becomes_of_rows_is_told_beside_the_name(
    shell: Shell, requests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handle, "job", replace(Handle.job, properties={"notes": ["3 rows repeat"]}))
    ended = shell.run(*TINY, "--detach")
    assert (ended.stdout, ended.stderr) == ("bright_cat\n", "note: 3 rows repeat\n")


def test_detached_only_the_jobs_name_is_printed(shell: Shell, requests: list[dict[str, Any]]) -> None:
    assert shell(*TINY, "--detach") == "bright_cat\n"
    assert json.loads(shell(*TINY, "--detach", "--json"))["name"] == "bright_cat"
    assert len(requests) == 2


def test_what_stands_in_a_file_yields_to_words_and_they_to_options(
    shell: Shell, requests: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "job.yml"
    file.write_text("model: tiny-phi3\nlora_r: 2\nnum_train_epochs: 1\nvalidation_file_path: held.jsonl\n")
    shell("finetune", file, "lora_r=4", "--model", "tiny-llama", "--detach")
    assert requests == [
        {"model": "tiny-llama", "lora_r": "4", "num_train_epochs": 1, "validation": str(tmp_path / "held.jsonl")}
    ]


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        pytest.param("train: rows.jsonl", "train", "{folder}/rows.jsonl", id="data, there or not"),
        pytest.param("train_mltable_path: rows", "train_mltable_path", "{folder}/rows", id="a table"),
        pytest.param("test_file_path: rows.jsonl", "test", "{folder}/rows.jsonl", id="by the pipeline's own name"),
        pytest.param("train: /rows.jsonl", "train", "/rows.jsonl", id="absolute"),
        pytest.param("model: there", "model", "{folder}/there", id="a model's folder that is there"),
        pytest.param("model: tiny-llama", "model", "tiny-llama", id="a model's name"),
        pytest.param("deepspeed: there", "deepspeed", "{folder}/there", id="a configuration that is there"),
        pytest.param("lora_target: there", "lora_target", "there", id="what is no path"),
    ],
)
def test_relative_paths_of_a_file_are_meant_from_its_folder(
    line: str, name: str, value: str, shell: Shell, requests: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (file := tmp_path / "job.yml").write_text(line)
    shell("finetune", file, "--detach")
    assert requests == [{name: value.format(folder=tmp_path)}]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        pytest.param(None, "job.yml can't be read: No such file or directory.", id="missing"),
        pytest.param("a: [", "job.yml isn't YAML: ", id="no YAML"),
        pytest.param("- a", "job.yml holds no parameters, expected lines like `num_train_epochs: 1`.", id="a list"),
        pytest.param("", "job.yml holds no parameters", id="empty"),
    ],
)
def test_a_file_that_holds_no_parameters_is_refused(
    text: str | None, refusal: str, shell: Shell, requests: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "job.yml"
    if text is not None:
        file.write_text(text)
    assert refusal in shell("finetune", file, code=2)
    assert requests == []


def test_two_files_are_refused(shell: Shell, requests: list[dict[str, Any]]) -> None:
    told = shell("finetune", "a.yml", "b.yml", code=2)
    assert told == "error: Two configuration files are given: a.yml, b.yml. Keep one.\n"
    assert requests == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["--train", "{folder}/missing.jsonl"], "missing.jsonl', which doesn't exist", id="missing file"),
        pytest.param(["--train", "{folder}/empty.jsonl"], "empty", id="empty file"),
        pytest.param(["lora_rank_=4"], "Did you mean lora_rank", id="unknown parameter"),
        pytest.param(["learning_rate=0"], "learning_rate is '0'", id="out of range"),
        pytest.param(["lr_scheduler_type=cosin"], "Did you mean cosine?", id="not one of the values"),
        pytest.param(
            ["deepspeed_stage=3"],
            "deepspeed_stage is '3' while apply_deepspeed is 'false'",
            id="not honoured without another",
        ),
        pytest.param(
            ["num_nodes_finetune=600", "--strict-compute"], "ask for 600 GPUs, of which", id="GPUs that aren't here"
        ),
        pytest.param(["--model", "tiny-lama"], "Did you mean tiny-llama", id="unknown model"),
    ],
)
def test_bad_input_is_refused_before_anything_is_stored_or_started(
    words: list[str], expected: str, shell: Shell, workspace: Workspace, starts: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    told = shell(*TINY, *(word.format(folder=tmp_path) for word in words), code=2)
    assert told.startswith("error: ")
    assert expected in told
    assert workspace.jobs.list() == []
    assert starts == []


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What estimates were asked for with."""
    calls: list[dict[str, Any]] = []

    class Estimating(Handle):
        def stream(self, to: Any) -> None:
            to.write("an event\n")

        def wait(self) -> None:
            pass

    def estimate(_: Jobs, **values: Any) -> Any:
        calls.append(values)
        return Estimating()

    monkeypatch.setattr(Jobs, "estimate", estimate)
    monkeypatch.setattr(Jobs, "read_estimate", lambda _, name: made_estimate())
    return calls


def test_a_dry_run_prints_the_plan_and_the_estimate_and_trains_nothing(
    shell: Shell, workspace: Workspace, starts: list[Path], estimates: list[dict[str, Any]]
) -> None:
    ended = shell.run(*TINY, "lora_r=4", "apply_lora=true", "--dry-run")
    told = ended.stdout
    assert told.splitlines()[0].startswith("job         ")
    assert "\nfinetune (finetune:" in told
    assert ["lora_r", "4"] in [line.split() for line in told.splitlines()]
    assert "\nnote: 2 of the 60 rows equal an earlier one; rows that repeat within a split are kept\n" in told
    _, table = told.split("\nTraining, by a few steps on these rows:\n")
    assert table.splitlines()[0] == "model       tiny-llama:1, in float32 on cpu"
    assert table.splitlines()[-1] == "disk        300.0 MB, 10.0 GB were free"
    assert ended.stderr == "an event\n"
    assert estimates == [{"model": "tiny-llama", "train": CONVERSATIONS, "lora_r": "4", "apply_lora": "true"}]
    body = json.loads(shell(*TINY, "--dry-run", "--json"))
    assert len(body["job"]["properties"]["notes"]) == 1
    names = [step["spec"]["name"] for step in body["steps"]]
    assert {"import_model", "prepare_data", "finetune", "package_model"} <= set(names)
    assert (body["estimate"]["steps"], body["missing"]) == (36, "")
    assert workspace.jobs.list() == []
    assert starts == []


@pytest.mark.parametrize(
    ("model", "name"),
    [("Phi-4", "Phi-4:8"), ("SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct:q4_1"), ("some/model", "some/model")],
)
def test_a_dry_run_says_that_the_model_is_missing_and_fetches_none(
    model: str, name: str, shell: Shell, workspace: Workspace, starts: list[Path], estimates: list[dict[str, Any]]
) -> None:
    words = ["finetune", "--model", model, "--train", CONVERSATIONS, "--dry-run"]
    told = shell(*words)
    reason = f"the model {name} isn't on this machine yet: mafunzo model import {model}"
    assert "\nfinetune (finetune:" in told
    assert told.endswith(f"\nTime, memory and disk can't be told: {reason}\n")
    body = json.loads(shell(*words, "--json"))
    assert (body["estimate"], body["missing"]) == (None, reason)
    assert (estimates, starts, workspace.jobs.list()) == ([], [], [])


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("Phi-4", {"mlflow_model_path": ArtifactInput("sha256:0", "Phi-4:8")}),
        ("some/model", {"huggingface_id": LiteralInput("some/model")}),
    ],
)
def test_a_dry_run_estimates_with_a_model_that_was_imported_until_it_is_pruned(
    model: str, source: dict[str, Any], shell: Shell, workspace: Workspace, tmp_path: Path, estimates: list[Any]
) -> None:
    (folder := tmp_path / "model").mkdir()
    (folder / "config.json").write_text("{}")
    spec = StepSpec("import_model", "import_model:1", "sha256:0", "true", source, {"model": "uri_folder"})
    kept, gone = workspace.artifacts.put(folder), "sha256:" + "0" * 64
    for number, artifact in enumerate((kept, gone)):
        job = replace(Job(f"import-{number}", "e", "e", "import_model:1"), status=JobStatus.COMPLETED)
        workspace.records.jobs.add(job, [Step(job.name, spec, StepStatus.COMPLETED, 1, outputs={"model": artifact})])
        shell("finetune", "--model", model, "--train", CONVERSATIONS, "--dry-run")
        assert len(estimates) == 1, "the last import's is gone"


def test_a_dry_run_on_a_cluster_estimates_there(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, estimates: list[dict[str, Any]]
) -> None:
    spec = StepSpec("finetune", "finetune:1", "sha256:0", "true", {}, {}, placement=Placement("lab", nodes=2))
    step = Step("bright_cat", spec, StepStatus.WAITING, 1)
    monkeypatch.setattr(Jobs, "plan_finetune", lambda *_, **__: (Handle.job, [step]))
    told = shell(*TINY, "--compute", "lab", "--dry-run")
    assert "can't be told" not in told
    assert [values["compute_finetune"] for values in estimates] == ["lab"]


def test_two_models_are_compared_as_the_options_say(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def compare(_: Workspace, model: str, data: Path, against: str | None, **parameters: Any) -> Any:
        calls.append((model, data, against, parameters))
        return Handle()

    monkeypatch.setattr(Workspace, "compare", compare)
    told = shell(
        "compare", "tuned", "--data", "/t.jsonl", "--against", "base", "--set", "generation_rows=2", "--set", "seed=1"
    )
    assert told.endswith("Report: mafunzo job download bright_cat --to FOLDER --output evaluation_result\n")
    shell("compare", "tuned", "--data", "/t.jsonl", "--detach")
    assert calls == [
        ("tuned", Path("/t.jsonl"), "base", {"generation_rows": "2", "seed": "1"}),
        ("tuned", Path("/t.jsonl"), None, {}),
    ]
    assert "'seed' isn't key=value." in shell("compare", "tuned", "--data", "/t.jsonl", "--set", "seed", code=2)


def test_a_model_without_a_known_base_is_compared_with_a_named_one_only(shell: Shell, workspace: Workspace) -> None:
    told = shell("compare", "tiny-llama", "--data", CONVERSATIONS, code=2)
    assert "tiny-llama has no known base: name one with --against." in told
    assert workspace.jobs.list() == []


AXOLOTL = """
base_model: tiny-llama
datasets: [{path: rows.jsonl, type: chat_template}]
adapter: lora
lora_r: 4
learning_rate: 1e-4
load_in_4bit: true
"""


@pytest.fixture
def axolotl(tmp_path: Path) -> Path:
    """A configuration of Axolotl's with one key that can't be honoured, beside its rows."""
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "axolotl.yml").write_text(AXOLOTL)
    return tmp_path / "axolotl.yml"


def test_another_tools_configuration_is_listed_and_taken_but_for_what_is_given_up(
    shell: Shell, axolotl: Path, requests: list[dict[str, Any]]
) -> None:
    told = shell("finetune", "--from", "axolotl", axolotl, "--drop", "load_in_4bit", "lora_r=8")
    lines = [line.split() for line in told.splitlines()]
    assert ["base_model", "tiny-llama", "taken", "model=tiny-llama"] in lines
    assert ["lora_r", "4", "dropped", "lora_r", "is", "given", "beside", "the", "file"] in lines
    assert ["load_in_4bit", "True", "dropped", "left", "out", "by", "--drop"] in lines
    [request] = requests
    assert request["train"] == str(axolotl.parent / "rows.jsonl")
    assert (request["apply_lora"], request["lora_r"], request["learning_rate"]) == ("true", "8", 1e-4)
    assert request["lr_scheduler_type"] == "cosine", "Axolotl's default"


def test_a_key_of_another_tool_that_cannot_be_honoured_ends_it_before_anything_starts(
    shell: Shell, axolotl: Path, requests: list[dict[str, Any]]
) -> None:
    ended = shell.run("finetune", "--from", "axolotl", axolotl, "--json")
    assert ended.exit_code == 2 and ended.stdout == "" and requests == []
    assert "Axolotl's key" in ended.stderr, "the list stands beside the JSON"
    assert "  - load_in_4bit: True: bases aren't quantized here" in ended.stderr


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--from", "axolotl"], "--from axolotl needs the file"),
        (["--drop", "packing"], "--drop leaves out keys of another tool's file. Name the tool"),
        (["--from", "axolotl", "{file}", "--drop", "packing"], "--drop packing: it has adapter, base_model"),
    ],
)
def test_what_is_missing_beside_from_and_drop_is_said(
    words: list[str], fault: str, shell: Shell, axolotl: Path, requests: list[dict[str, Any]]
) -> None:
    told = shell("finetune", *(word.replace("{file}", str(axolotl)) for word in words), code=2)
    assert fault in told and requests == []
