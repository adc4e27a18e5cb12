"""Tests of `mafunzo.control.workspace.lineage`: from a model back to its data, each link checked."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.lineage import Lineage, Link, facts_of_job, trace
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.job import Job, JobStatus, LiteralInput, Step, StepSpec, StepStatus
from mafunzo.entities.pruning import PRUNED
from mafunzo.entities.sweep import BEST_TRIAL
from mafunzo.errors import ArtifactCorrupt, NotFound


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def put(workspace: Workspace, name: str, **files: str) -> str:
    """Store a folder; `model_json` is the file `model.json`."""
    (folder := workspace.home.root / "sources" / name).mkdir(parents=True)
    for file, text in files.items():
        (folder / file.replace("_json", ".json")).write_text(text)
    return workspace.artifacts.put(folder)


@pytest.fixture
def job(workspace: Workspace) -> Job:
    """A fine-tuning that has ended: two of its steps, its data, and its base."""
    data = put(workspace, "data", rows_json="[]")
    facts = {"name": "tiny", "version": "1", "source": "made", "licence": "mit", "weights_sha256": "0"}
    base = put(workspace, "base", mafunzo_model_json=json.dumps(facts | {"secret": "no"}))
    split = {"rows_read": 10, "rows_kept": 8, "dropped": [1, 2]}
    prepared = put(workspace, "prepared", report_json=json.dumps({"splits": {"train": split}}))
    importer = StepSpec("import_model", "import_model:1", "sha256:code", "true")
    spec = StepSpec("prepare_data", "mine:1", "sha256:other", "true", inputs={"seed": LiteralInput(7)})
    steps = [
        Step("j1", importer, StepStatus.COMPLETED, outputs={"model": base}, cache_key="k1"),
        Step("j1", spec, StepStatus.CACHED, outputs={"prepared": prepared}, cache_key="k2"),
    ]
    inputs = {
        "train_file_path": {"artifact": data, "name": "train.jsonl"},
        "mlflow_model_path": {"artifact": base, "name": "tiny:1"},
        "learning_rate": 0.1,
    }
    return workspace.records.jobs.add(Job("j1", "j", "chat", "c:1", inputs=inputs, status=JobStatus.COMPLETED), steps)


def add_model(workspace: Workspace, **properties: object) -> str:
    artifact = put(workspace, "tuned", weights="x")
    key = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, "tuned", "1")
    workspace.records.assets.add(Asset(key, FolderType.CUSTOM_MODEL, artifact, properties=properties))
    return artifact


def kinds(lineage: Lineage) -> list[tuple[int, str, str]]:
    return [(link.depth, link.kind, link.name) for link in lineage.links]


JOB_LINKS = [
    (0, "job", "j1"),
    (1, "input", "train_file_path = train.jsonl"),
    (1, "input", "mlflow_model_path = tiny:1"),
    (1, "step", "import_model (completed)"),
    (2, "output", "import_model.model"),
    (1, "step", "prepare_data (cached)"),
    (2, "output", "prepare_data.prepared"),
]


def test_a_job_is_traced_to_its_inputs_and_steps(workspace: Workspace, job: Job) -> None:
    assert kinds(trace(workspace.services, "j1")) == JOB_LINKS


def test_a_model_is_traced_through_the_job_that_made_it(workspace: Workspace, job: Job) -> None:
    add_model(workspace, job="j1")
    lineage = trace(workspace.services, "tuned")
    assert kinds(lineage) == [(0, "model", "tuned:1"), *((depth + 1, kind, name) for depth, kind, name in JOB_LINKS)]
    lineage.require_intact()
    assert all(link.faults == () for link in lineage.links)


def test_of_a_model_that_one_step_made_only_that_step_counts(workspace: Workspace, job: Job) -> None:
    add_model(workspace, job="j1", steps={"import_model": {}})
    steps = [name for _, kind, name in kinds(trace(workspace.services, "tuned:1")) if kind == "step"]
    assert steps == ["import_model (completed)"]


def test_where_the_job_was_deleted_the_way_ends(workspace: Workspace) -> None:
    add_model(workspace, job="j9")
    assert kinds(trace(workspace.services, "tuned")) == [(0, "model", "tuned:1"), (1, "job", "j9 (deleted)")]


def test_a_model_of_the_users_own_has_no_way_back(workspace: Workspace) -> None:
    add_model(workspace)
    assert kinds(trace(workspace.services, "tuned")) == [(0, "model", "tuned:1")]


def test_a_model_on_offer_is_its_licence(workspace: Workspace) -> None:
    assert list(trace(workspace.services, "tiny-llama").lines()) == [
        "catalogue model tiny-llama:1",
        "    licence: apache-2.0",
    ]


def test_what_is_neither_job_nor_model_is_refused(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match="Did you mean tiny-llama"):
        trace(workspace.services, "tiny-lama")


def test_code_that_changed_since_is_told_of_our_own_steps_only(workspace: Workspace, job: Job) -> None:
    by_name = {link.name: link.is_current for link in trace(workspace.services, "j1").links if link.kind == "step"}
    assert by_name == {"import_model (completed)": False, "prepare_data (cached)": None}


def test_every_place_where_bytes_have_changed_is_named(workspace: Workspace, job: Job) -> None:
    artifact = job.inputs["mlflow_model_path"]["artifact"]
    file = workspace.artifacts.open_file(artifact, "mafunzo_model.json")
    file.chmod(0o600)
    file.write_text("{}")
    lineage = trace(workspace.services, "j1")
    with pytest.raises(ArtifactCorrupt, match="The lineage is broken: stored bytes have changed") as refusal:
        lineage.require_intact()
    first, second = refusal.value.faults
    assert first.startswith("input mlflow_model_path = tiny:1: ")
    assert second.startswith("output import_model.model: ")
    assert "mafunzo_model.json" in first


def test_links_are_lines_with_their_hash_and_facts() -> None:
    links = (
        Link(
            "model",
            "m:1",
            {"by": "amina", "rows": {"train": {"read": 1, "kept": 2}}, "none": None},
            "sha256:" + "a" * 64,
        ),
        Link("input", "x", {}, "sha256:" + "b" * 64, ("changed",), depth=1),
        Link("step", "s (completed)", is_current=True, depth=1),
        Link("step", "t (completed)", is_current=False, depth=1),
    )
    assert list(Lineage(links).lines()) == [
        "model m:1 sha256:aaaaaaaaaaaa... [verified]",
        "    by: amina",
        "    rows: train=(read=1, kept=2)",
        "  input x sha256:bbbbbbbbbbbb... [CORRUPT]",
        "  step s (completed)",
        "  step t (completed) (the code has changed since)",
    ]


def test_a_registered_model_remembers_what_made_it(workspace: Workspace, job: Job) -> None:
    facts = facts_of_job(workspace.services, job, "out", None)
    base, data = job.inputs["mlflow_model_path"]["artifact"], job.inputs["train_file_path"]["artifact"]
    assert (facts["job"], facts["job_output"]) == ("j1", "out")
    assert facts["parameters"] == {"prepare_data.seed": 7}
    assert facts["code"] == {"import_model:1": "sha256:code", "mine:1": "sha256:other"}
    assert facts["steps"]["import_model"] == {"cache_key": "k1", "outputs": {"model": base}}
    assert facts["data"] == {"train_file_path": data}
    assert facts["base_artifact"] == base
    assert facts["base_model"] == {
        "reference": "tiny:1",
        "artifact": base,
        "name": "tiny",
        "version": "1",
        "source": "made",
        "licence": "mit",
        "weights_sha256": "0",
    }
    assert facts["rows"] == {"train": {"read": 10, "kept": 8, "dropped": 2}}


def test_a_model_that_one_step_made_remembers_that_step_only(workspace: Workspace, job: Job) -> None:
    step = workspace.records.steps.of("j1")[1]
    facts = facts_of_job(workspace.services, job, "prepared", step)
    assert set(facts["steps"]) == {"prepare_data"}
    assert "base_model" not in facts


def test_bytes_of_a_job_that_were_pruned_are_no_fault_of_its_lineage(workspace: Workspace, job: Job) -> None:
    moment = "2026-03-01T10:00:00+00:00"
    workspace.records.jobs.update(replace(job, properties={PRUNED: {"artifacts": moment}}))
    prepared = workspace.records.steps.of("j1")[1].outputs["prepared"]
    workspace.artifacts.delete(prepared)
    lineage = trace(workspace.services, "j1")
    assert lineage.faults == []
    (line,) = [line for line in lineage.lines() if "prepare_data.prepared" in line]
    assert line.endswith("[pruned]")
    facts = facts_of_job(workspace.services, job, "model", None)
    assert "rows" not in facts and facts["base_model"]["name"] == "tiny"


def test_what_a_sweep_made_has_the_values_of_its_best_trial(workspace: Workspace) -> None:
    specs = [StepSpec(f"look.{n}", "c:1", "", "", inputs={"x": LiteralInput(n)}, trial_of="look") for n in range(2)]
    look = Step("j2", StepSpec("look", "c:1", "", ""), StepStatus.COMPLETED, properties={BEST_TRIAL: "look.1"})
    steps = [*(Step("j2", spec, StepStatus.COMPLETED) for spec in specs), look]
    job = workspace.records.jobs.add(Job("j2", "j", "chat", "c:1", status=JobStatus.COMPLETED), steps)
    facts = facts_of_job(workspace.services, job, "out", look)
    assert facts["parameters"] == {"look.1.x": 1} and list(facts["steps"]) == ["look.1"]
