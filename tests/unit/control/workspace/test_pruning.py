"""Tests of `mafunzo.control.workspace.pruning`: what is found in a home, what goes of it, and what works after that."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.launcher.environment import READY_FILE, environment_folder
from mafunzo.control.serving import request_log
from mafunzo.control.serving.request_log import LoggedRequest
from mafunzo.control.store.usage import UsageKind
from mafunzo.control.workspace import pruning
from mafunzo.control.workspace.job_handle import job_view
from mafunzo.control.workspace.pruning import LOCK_FILE
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.environment import Environment
from mafunzo.entities.job import ArtifactInput, Job, JobStatus, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.entities.pruning import PRUNED, PruneKind
from mafunzo.errors import Conflict, NotFound
from mafunzo.tracking.step_folder import StepFolder

LONG_AGO = datetime.now(UTC) - timedelta(days=90)
STAYS = {"metrics.jsonl", "exit.json", "error.json", "process.json"}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("MAFUNZO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with Workspace(tmp_path / "home") as opened:
        yield opened


def stored(workspace: Workspace, text: str) -> str:
    """An artifact that was put long ago."""
    folder = workspace.home.root.parent / f"source of {text}"
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text(text * 5000)
    artifact = workspace.artifacts.put(folder)
    age(workspace.artifacts.manifest_path(artifact), LONG_AGO - timedelta(days=1))
    return artifact


def age(path: Path, moment: datetime = LONG_AGO) -> None:
    os.utime(path, (moment.timestamp(), moment.timestamp()))


def add_job(
    workspace: Workspace, name: str, ended_at: datetime | None = LONG_AGO, output: str = "", train: str = ""
) -> str:
    """A job with one step, and all that one may leave; return the artifact of its output."""
    output = output or (stored(workspace, name) if ended_at else "")
    inputs = {"rows": ArtifactInput(train, "train.jsonl")} if train else {}
    spec = StepSpec("one", "c:1", "sha256:0", "true", inputs=inputs, outputs={"out": "uri_folder"}, is_trusted=True)
    status = StepStatus.COMPLETED if ended_at else StepStatus.RUNNING
    step = Step(name, spec, status, 1, "key", {"out": output} if ended_at else {}, ended_at=ended_at)
    job = Job(name, name, "e", "c:1", outputs={"out": StepOutputInput("one", "out")}, ended_at=ended_at)
    workspace.records.jobs.add(replace(job, status=JobStatus.COMPLETED if ended_at else JobStatus.RUNNING), [step])
    folder = StepFolder.of(workspace.home.jobs, name, "one", 1)
    (folder.outputs / "out" / "checkpoint-1").mkdir(parents=True)
    (folder.outputs / "out" / "checkpoint-1" / "manifest.json").write_text("{}")
    folder.logs.mkdir()
    for path in (folder.log, folder.log_of(1), folder.logs / "own.log", folder.path / "core"):
        path.write_text("x" * 9000)
    for name in STAYS:
        (folder.path / name).write_text(json.dumps({"time": 1, "step": 1, "loss": 2.0}) + "\n")
    folder.key.write_text("{}")
    (folder.path.parent.parent / "job.json").write_text("{}")
    return output


def model(workspace: Workspace, artifact: str, **properties: str) -> None:
    key = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, "m", "1")
    workspace.records.assets.add(Asset(key, FolderType.CUSTOM_MODEL, artifact, properties=properties))


def files(workspace: Workspace, job: str) -> set[str]:
    return {path.name for path in StepFolder.of(workspace.home.jobs, job, "one", 1).path.iterdir()}


def test_a_dry_run_says_what_would_go_and_changes_nothing(workspace: Workspace) -> None:
    artifact = add_job(workspace, "old")
    before = sorted(workspace.home.root.rglob("*"))
    report = workspace.prune()
    assert not report.is_applied and report.freed_bytes == 0
    assert {(str(one.kind), one.name) for one in report.removals} == {
        ("jobs", "old"), ("logs", "old"), ("artifacts", artifact),
    }  # fmt: skip
    assert all(one.size_bytes >= 9000 for one in report.removals)
    assert [path for path in sorted(workspace.home.root.rglob("*")) if "database" not in path.parts] == [
        path for path in before if "database" not in path.parts
    ]
    assert PRUNED not in workspace.jobs.get("old").job.properties


def test_a_pruned_job_is_listed_with_its_metrics_and_says_what_went(workspace: Workspace) -> None:
    artifact = add_job(workspace, "old")
    report = workspace.prune(apply=True)
    assert report.failures == () and report.freed_bytes >= 4 * 9000
    assert files(workspace, "old") == STAYS and not workspace.artifacts.exists(artifact)
    assert StepFolder.of(workspace.home.jobs, "old", "one", 1).key.exists()
    assert (workspace.home.jobs / "old" / "job.json").exists()
    (job,) = workspace.jobs.list()
    assert set(job.properties[PRUNED]) == {"jobs", "logs", "artifacts"}
    handle = workspace.jobs.get("old")
    assert handle.metrics()["one"][0]["loss"] == 2.0
    assert handle.written() == {} and handle.written("one") == {}
    with pytest.raises(NotFound, match=r"Output out of job old was pruned on \d{4}-\d\d-\d\d\. Submit the job again"):
        handle.output_artifact("out")
    assert "The logs of its steps were pruned on" in next(iter(handle.events())).text
    again = workspace.prune(apply=True)
    assert again.removals == () and again.freed_bytes == 0


def test_what_was_made_anew_is_a_pruned_job_s_output_again(workspace: Workspace) -> None:
    artifact = add_job(workspace, "old")
    workspace.prune(apply=True)
    assert stored(workspace, "old") == artifact
    assert workspace.jobs.get("old").output_artifact("out") == artifact


def test_an_interrupted_pruning_is_gone_on_with(workspace: Workspace) -> None:
    artifact = add_job(workspace, "old", datetime.now(UTC))
    job = workspace.records.jobs.get("old")
    marks = {"artifacts": datetime.now(UTC).isoformat()}
    workspace.records.jobs.update(replace(job, properties={PRUNED: marks}))
    workspace.prune(apply=True)
    assert not workspace.artifacts.exists(artifact)
    assert "log.txt" in files(workspace, "old")  # of an age at which only what was begun goes on


def test_kinds_are_pruned_by_themselves(workspace: Workspace) -> None:
    artifact = add_job(workspace, "old")
    workspace.prune(kinds=["logs"], apply=True)
    assert files(workspace, "old") == STAYS | {"core", "outputs"} and workspace.artifacts.exists(artifact)
    assert set(workspace.jobs.get("old").job.properties[PRUNED]) == {"logs"}


def test_jobs_that_run_or_are_young_stay_whole(workspace: Workspace) -> None:
    add_job(workspace, "runs", None)
    add_job(workspace, "young", datetime.now(UTC) - timedelta(days=1))
    assert workspace.prune(apply=True).removals == ()
    assert {"log.txt", "outputs"} <= files(workspace, "runs") & files(workspace, "young")
    assert {one.name for one in workspace.prune("12h").removals} >= {"young"}


def test_the_lineage_of_a_model_stays_and_is_named(workspace: Workspace) -> None:
    artifact = add_job(workspace, "old")
    model(workspace, artifact, job="old")
    report = workspace.prune(apply=True)
    assert report.removals == ()
    assert [(one.name, one.reason) for one in report.kept] == [("old", "model m:1 came from it")]
    workspace.lineage("m").require_intact()
    assert "log.txt" in files(workspace, "old")


@pytest.mark.parametrize("holder", ["data", "deployment", "open job", "blob"])
def test_an_artifact_stays_while_something_else_needs_it(holder: str, workspace: Workspace) -> None:
    artifact = add_job(workspace, "old")
    match holder:
        case "data":
            key = AssetKey(WORKSPACE_SCOPE, AssetType.DATA, "d", "1")
            workspace.records.assets.add(Asset(key, FolderType.URI_FOLDER, artifact, is_archived=True))
            reason = "data d:1 needs it"
        case "deployment":
            workspace.records.endpoints.add(Endpoint("e"), ("1", "2"))
            workspace.records.deployments.add(Deployment("e", "d", "phi:1", artifact))
            reason = "deployment e/d needs it"
        case "open job":
            add_job(workspace, "runs", None, train=artifact)
            reason = "job runs needs it"
        case _:
            workspace.blobs.place("c", "shown", artifact)
            reason = ""
    report = workspace.prune(apply=True)
    assert "log.txt" not in files(workspace, "old")
    if holder == "blob":  # each of its files is an artifact by itself
        (blob,) = workspace.blobs.list("c")
        assert workspace.blobs.path(blob).exists()
        return
    assert workspace.artifacts.exists(artifact)
    assert [(one.name, one.reason) for one in report.kept] == [(artifact, reason)]
    assert "artifacts" not in workspace.jobs.get("old").job.properties[PRUNED]


def test_blobs_that_only_show_a_pruned_job_s_files_go_with_them(workspace: Workspace) -> None:
    artifact = add_job(workspace, "old")
    workspace.blobs.publish("c", "shown", artifact, job_view("old"))
    for each in workspace.artifacts.hashes():
        age(workspace.artifacts.manifest_path(each))
    workspace.prune(apply=True)
    assert workspace.blobs.list("c") == [] and workspace.artifacts.hashes() == []


def test_links_that_a_step_left_are_deleted_themselves(workspace: Workspace, tmp_path: Path) -> None:
    add_job(workspace, "old")
    (elsewhere := tmp_path / "elsewhere" / "1").mkdir(parents=True)
    (elsewhere / "log.txt").write_text("mine")
    StepFolder.of(workspace.home.jobs, "old", "one", 1).path.joinpath("link").symlink_to(elsewhere)
    (workspace.home.jobs / "old" / "two").symlink_to(elsewhere.parent)
    assert workspace.prune(apply=True).failures == ()
    assert (elsewhere / "log.txt").read_text() == "mine" and files(workspace, "old") == STAYS


def test_what_can_t_be_deleted_is_told_and_the_others_go(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from mafunzo.control.workspace import pruning

    add_job(workspace, "bad")
    add_job(workspace, "old")
    remove = pruning.remove_tree

    def remove_or_fail(path: Path) -> None:
        if "bad" in path.parts:
            raise OSError(16, "busy")
        remove(path)

    monkeypatch.setattr(pruning, "remove_tree", remove_or_fail)
    report = workspace.prune(apply=True)
    assert report.failures and all("bad" in failure for failure in report.failures)
    assert files(workspace, "old") == STAYS


def test_a_damaged_manifest_fails_the_artifacts_only(workspace: Workspace) -> None:
    add_job(workspace, "old")
    stays = stored(workspace, "stays")
    model(workspace, stays)
    path = workspace.artifacts.manifest_path(stays)
    path.chmod(0o600)
    path.write_text("{}")
    report = workspace.prune(apply=True)
    assert [failure.partition(":")[0] for failure in report.failures] == ["artifacts"]
    assert files(workspace, "old") == STAYS


def test_two_prunings_at_once_are_refused(workspace: Workspace) -> None:
    with (workspace.home.root / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="is being pruned already"):
            workspace.prune(apply=True)
        workspace.prune()


@pytest.fixture
def built(workspace: Workspace) -> tuple[Environment, Path]:
    """An environment that was last used long ago."""
    environment = Environment("e", "1", packages=("six",))
    folder = environment_folder(workspace.home.root / "environments", environment)
    folder.mkdir(parents=True)
    (folder / "file").write_text("x" * 9000)
    (folder / READY_FILE).write_text("{}")
    lock = folder.with_name(f"{folder.name}.lock")
    lock.touch()
    for path in (folder / READY_FILE, folder, lock):
        age(path)
    return environment, folder


def test_an_environment_goes_by_its_last_use(workspace: Workspace, built: tuple[Environment, Path]) -> None:
    _, folder = built
    assert [one.name for one in workspace.prune(kinds=["environments"]).removals] == [str(folder)]
    os.utime(folder.with_name(f"{folder.name}.lock"))  # as a step does that begins to use it
    assert workspace.prune(kinds=["environments"]).removals == ()
    assert workspace.prune("0s", kinds=["environments"], apply=True).freed_bytes >= 9000
    assert not folder.exists()


def test_an_environment_that_an_open_job_needs_stays(workspace: Workspace, built: tuple[Environment, Path]) -> None:
    environment, folder = built
    spec = StepSpec("s", "c:1", "sha256:0", "true", runtime=environment)
    workspace.records.jobs.add(Job("waits", "j", "e", "c:1"), [Step("waits", spec)])
    report = workspace.prune(kinds=["environments"], apply=True)
    assert report.removals == () and [one.reason for one in report.kept] == ["job waits needs it"]
    assert (folder / READY_FILE).exists()


def test_an_environment_that_is_needed_since_the_look_is_put_back(
    workspace: Workspace, built: tuple[Environment, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mafunzo.control.workspace import pruning

    _, folder = built
    looks = iter([{}, {folder.name: "came"}])
    monkeypatch.setattr(pruning, "_needed_environments", lambda services: next(looks))
    assert workspace.prune(kinds=["environments"], apply=True).freed_bytes == 0
    assert (folder / READY_FILE).exists()


def test_downloads_go_by_their_last_use_unless_a_job_is_about_to_fetch(workspace: Workspace) -> None:
    models = workspace.services.cache / "models"
    for name, moment in (("old-v3", LONG_AGO), ("young-v3", datetime.now(UTC)), ("of another program", LONG_AGO)):
        (models / name).mkdir(parents=True)
        (models / name / "weights").write_text("x" * 9000)
        age(models / name / "weights", moment)
        age(models / name, moment)
    (workspace.services.cache / "demo" / "jobs").mkdir(parents=True)  # a home
    age(workspace.services.cache / "demo")
    spec = StepSpec("import_model", "import_model:1", "sha256:0", "true")
    workspace.records.jobs.add(Job("imports", "j", "e", "c:1"), [Step("imports", spec)])
    assert [one.reason for one in workspace.prune(kinds=["caches"]).kept] == ["job imports is about to fetch"]
    workspace.records.jobs.update(replace(workspace.records.jobs.get("imports"), status=JobStatus.FAILED))
    workspace.prune(kinds=["caches"], apply=True)
    assert sorted(path.name for path in models.iterdir()) == ["of another program", "young-v3"]
    assert (workspace.services.cache / "demo").exists()


def test_leftovers_in_the_temporary_folder_go_unless_a_process_uses_them(workspace: Workspace, tmp_path: Path) -> None:
    for name in ("mafunzo-start-abcd1234", "mafunzo-card-abcd1234", "mafunzo-home", "other"):
        (tmp_path / "tmp" / name).mkdir()
        age(tmp_path / "tmp" / name)
    (scratch := workspace.home.root / ".rows-abc").mkdir()
    age(scratch)
    command = [
        sys.executable,
        "-c",
        "print('on', flush=True); input()",
        str(tmp_path / "tmp" / "mafunzo-card-abcd1234"),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"on\n"
        report = workspace.prune(kinds=["temporary"], apply=True)
        process.communicate(b"\n")
    assert [one.reason for one in report.kept] == [f"process {process.pid} uses it"]
    assert sorted(path.name for path in (tmp_path / "tmp").iterdir()) == [
        "mafunzo-card-abcd1234",
        "mafunzo-home",
        "other",
    ]
    assert not scratch.exists()


def test_files_of_deleted_jobs_runs_go_by_age_and_those_of_a_models_lineage_stay(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_job(workspace, "there")
    model(workspace, stored(workspace, "m"), job="origin")
    root = workspace.home.root / "mlflow" / "artifacts"
    folders = {name: root / name for name in ("there", "deleted", "deleted-now", "origin", "nobody")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "file").write_text("x" * 9000)
        for path in (folder / "file", folder):
            age(path, datetime.now(UTC) if name == "deleted-now" else LONG_AGO)
    jobs = [("" if name == "nobody" else name, folder) for name, folder in folders.items()]
    monkeypatch.setattr(pruning, "run_folders", lambda home: iter(jobs))
    plan = workspace.prune(kinds=["runs"])
    assert [one.name for one in plan.removals] == [str(folders[name]) for name in ("deleted", "nobody")]
    assert [(one.name, one.reason) for one in plan.kept] == [(str(folders["origin"]), "model m:1 came from it")]
    assert all(folder.exists() for folder in folders.values()), "nothing goes unless it is applied"
    assert workspace.prune(kinds=["runs"], apply=True).freed_bytes >= 18000
    assert sorted(path.name for path in root.iterdir()) == ["deleted-now", "origin", "there"]


def test_old_copies_of_the_database_go_but_for_the_newest(workspace: Workspace) -> None:
    backups = workspace.home.backups
    for number, days in ((2, 90), (3, 80), (4, 70)):
        (copy := backups / f"before-{number:04d}-2026.db").write_text("x" * 9000)
        age(copy, datetime.now(UTC) - timedelta(days=days))
    (own := backups / "mine.tar").write_text("x")
    age(own)
    report = workspace.prune(kinds=["backups"], apply=True)
    assert [Path(one.name).name for one in report.removals] == ["before-0002-2026.db", "before-0003-2026.db"]
    assert [(Path(one.name).name, one.reason) for one in report.kept] == [
        ("before-0004-2026.db", "it is the newest copy")
    ]
    assert sorted(path.name for path in backups.iterdir()) == ["before-0004-2026.db", "mine.tar"]


def test_kept_prompts_and_answers_go_by_the_day(workspace: Workspace) -> None:
    for at in ("2026-01-01", "2026-06-01"):
        entry = LoggedRequest("a", f"{at}T00:00:00", "chat", "blue", "m:1", "/v1", 200, {}, "hello")
        request_log.append(workspace.home, "abc", entry)
    old, new = request_log.log_files(workspace.home)
    age(old)
    old.read_text()  # whoever reads it keeps it no longer
    assert workspace.status().sizes[UsageKind.REQUESTS] > 0
    report = workspace.prune(kinds=["requests"], apply=True)
    assert [one.name for one in report.removals] == [str(old)]
    assert request_log.log_files(workspace.home) == [new]


def test_every_kind_is_looked_for() -> None:
    from mafunzo.control.workspace.pruning import FILES_OF, ITEMS

    assert {*FILES_OF, *ITEMS, PruneKind.ARTIFACTS} == set(PruneKind)
