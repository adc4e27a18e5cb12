from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from subprocess import Popen

import pytest
import sqlalchemy as sa

from mafunzo.control.store.home import Home
from mafunzo.control.store.records import Records
from mafunzo.entities.job import (
    ArtifactInput,
    JobStatus,
    LiteralInput,
    Resources,
    Step,
    StepOutputInput,
    StepSpec,
    StepStatus,
)
from mafunzo.entities.scan import Scan
from mafunzo.errors import Conflict, NotFound
from tests.unit.control.store.records.sample import NOON, artifact_hash, job_named, step_of

ADD_JOBS = """
import sys
from pathlib import Path
from mafunzo.entities.job import Job
from mafunzo.errors import Conflict
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.home import Home
from mafunzo.control.store.records import Records
records = Records(open_database(Home(Path(sys.argv[1])), sys.argv[2] or None))
won = 0
for number in range(15):
    try:
        records.jobs.add(Job(f"job-{number}", "", "e", "c:1"), [])
        won += 1
    except Conflict:
        pass
print(won)
"""


def test_a_job_and_its_steps_come_back_as_they_were_added(records: Records) -> None:
    job = job_named(
        inputs={"rate": 1e-5, "model": {"name": "m", "version": "1"}},
        outputs={"model": StepOutputInput("finetune", "folder")},
        priority=3,
        tags={"a": "b"},
        error={"code": "failed", "message": "m"},
        created_at=NOON,
        started_at=NOON + timedelta(seconds=1),
    )
    spec = StepSpec(
        "finetune",
        "finetune:1",
        "code",
        "run",
        inputs={
            "rate": LiteralInput(1.0),
            "steps": LiteralInput(1),
            "is_on": LiteralInput(True),
            "text": LiteralInput("1"),
            "data": ArtifactInput(artifact_hash("b"), "train.jsonl"),
            "model": StepOutputInput("import", "model"),
        },
        resources=Resources(2, 1, 4096, 2),
        code_artifact=artifact_hash("c"),
    )
    steps = [Step("job", spec, started_at=NOON, outputs={"folder": artifact_hash("d")}), step_of(name="a-later-one")]
    assert records.jobs.add(job, steps) == job
    assert records.jobs.get("job") == job
    assert records.steps.of("job") == steps
    types = {name: type(value) for name, value in records.steps.of("job")[0].spec.inputs.items()}
    assert types == {name: type(value) for name, value in spec.inputs.items()}
    literals = [records.steps.of("job")[0].spec.inputs[name] for name in ("rate", "steps", "is_on", "text")]
    assert [type(literal.value) for literal in literals if isinstance(literal, LiteralInput)] == [float, int, bool, str]


def test_a_job_whose_steps_cannot_be_added_is_not_there_either(records: Records) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        records.jobs.add(job_named(), [step_of(), step_of()])
    assert records.jobs.list() == []
    records.jobs.add(job_named(), [step_of()])
    with pytest.raises(Conflict, match="Job job exists already"):
        records.jobs.add(job_named(), [])
    assert len(records.steps.of("job")) == 1


@pytest.mark.parametrize("url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_processes_that_add_the_same_jobs_at_once_add_each_once(
    records: Records, home: Home, url: str | None, start_python: Callable[..., Popen[str]]
) -> None:
    processes = [start_python(ADD_JOBS, home.root, url or "") for _ in range(3)]
    won = [process.communicate() for process in processes]
    assert sum(int(out or 0) for out, _ in won) == 15, won
    assert len(records.jobs.list()) == 15


def test_the_queue_is_in_order_of_priority_then_age_and_without_what_ended(records: Records) -> None:
    for name, priority, status in (
        ("old", 0, JobStatus.QUEUED),
        ("urgent", 5, JobStatus.QUEUED),
        ("done", 9, JobStatus.COMPLETED),
        ("running", 0, JobStatus.RUNNING),
        ("also urgent", 5, JobStatus.QUEUED),
    ):
        records.jobs.add(job_named(name, priority=priority, status=status), [])
    assert [job.name for job in records.jobs.queue()] == ["urgent", "also urgent", "old", "running"]


def test_jobs_are_listed_by_status_and_age(records: Records) -> None:
    for name, status in (("a", JobStatus.QUEUED), ("b", JobStatus.FAILED), ("c", JobStatus.QUEUED)):
        records.jobs.add(job_named(name, status=status), [])
    assert [job.name for job in records.jobs.list()] == ["c", "b", "a"]
    assert [job.name for job in records.jobs.list([JobStatus.QUEUED])] == ["c", "a"]
    assert records.jobs.list([]) == []


def test_a_request_to_cancel_is_not_lost_to_a_state_read_before_it(records: Records) -> None:
    read_before = records.jobs.add(job_named(), [])
    records.jobs.request_cancel("job")
    records.jobs.update(replace(read_before, status=JobStatus.RUNNING))
    job = records.jobs.get("job")
    assert (job.status, job.is_cancel_requested) == (JobStatus.RUNNING, True)


def test_a_job_that_is_not_there_cannot_be_updated(records: Records) -> None:
    records.jobs.add(job_named("finetune-1"), [])
    with pytest.raises(NotFound, match=r"No job 'finetune-2'\. Did you mean finetune-1\?"):
        records.jobs.update(job_named("finetune-2"))
    with pytest.raises(NotFound, match="Job finetune-1 has no step 'evaluate'"):
        records.steps.update(step_of("finetune-1", "evaluate"))
    assert records.steps.of("finetune-2") == []


def test_only_a_job_that_ended_can_be_deleted_and_its_steps_go_with_it(records: Records) -> None:
    job = records.jobs.add(job_named(), [step_of(outputs={"folder": artifact_hash("e")})])
    with pytest.raises(Conflict, match=r"Job job is queued\. Cancel it first\."):
        records.jobs.delete("job")
    assert records.referenced_artifacts() == {artifact_hash("e")}
    records.jobs.update(replace(job, status=JobStatus.CANCELED))
    records.jobs.delete("job")
    assert (records.steps.of("job"), records.jobs.list(), records.referenced_artifacts()) == ([], [], set())


def test_the_cache_gives_the_step_that_was_done_last(records: Records) -> None:
    done = {"cache_key": "k", "status": StepStatus.COMPLETED, "outputs": {"o": artifact_hash("a")}}
    records.jobs.add(job_named(), [step_of(name="first", ended_at=NOON + timedelta(hours=1), **done)])
    records.jobs.add(job_named("2"), [step_of("2", "second", ended_at=NOON, **done)])
    unfinished = [
        step_of("3", "a", cache_key="k"),
        step_of("3", "b", cache_key="k", status=StepStatus.FAILED, ended_at=NOON),
    ]
    records.jobs.add(job_named("3"), [*unfinished, step_of("3", "other", **done | {"cache_key": "other"})])
    found = records.steps.find_cached("k")
    assert found is not None and found.name == "first"
    records.steps.update(step_of("3", "a", ended_at=NOON + timedelta(hours=2), **done | {"status": StepStatus.CACHED}))
    found = records.steps.find_cached("k")
    assert found is not None and found.name == "a"
    assert records.steps.find_cached("unknown") is None


def test_an_earlier_step_like_this_one_is_found_whatever_its_version(records: Records) -> None:
    done = {"status": StepStatus.COMPLETED, "ended_at": NOON}
    records.jobs.add(
        job_named(), [step_of(component="finetune:1.0.1", **done), step_of(name="another", component="finetune:1.0.1")]
    )
    found = records.steps.last_like("finetune:1.0.2", "finetune")
    assert found is not None and found.spec.component == "finetune:1.0.1"
    assert records.steps.last_like("finetune", "another") is None
    assert records.steps.last_like("evaluate:1.0.1", "finetune") is None


def test_jobs_are_listed_in_pages_by_the_name_of_the_last_one(records: Records) -> None:
    for number in range(5):
        records.jobs.add(job_named(name=f"job-{number}"), [])
    first = records.jobs.list(limit=2)
    second = records.jobs.list(limit=2, before=first[-1].name)
    third = records.jobs.list(limit=2, before=second[-1].name)
    assert [[job.name for job in page] for page in (first, second, third)] == [
        ["job-4", "job-3"],
        ["job-2", "job-1"],
        ["job-0"],
    ]
    assert records.jobs.list(limit=2, before="job-0") == []
    records.jobs.add(job_named(name="job-5"), [])
    assert records.jobs.list(limit=2, before=first[-1].name) == second, "what is new moves no page"
    with pytest.raises(NotFound):
        records.jobs.list(before="none")


def test_a_long_list_of_jobs_is_read_in_pages_hidden_ones_apart(records: Records) -> None:
    for number in range(5):
        records.jobs.add(job_named(f"job-{number}", is_archived=number == 2, display_name=f"what {number}"), [])
    assert [job.name for _, job in records.jobs.scan(Scan(size=2))] == [f"job-{number}" for number in (4, 3, 2, 1, 0)]
    assert [job.name for _, job in records.jobs.scan(Scan(), is_archived=True)] == ["job-2"]
    shown = list(records.jobs.scan(Scan(size=2), is_archived=False))
    assert [job.name for _, job in shown] == ["job-4", "job-3", "job-1", "job-0"]
    assert [job.name for _, job in records.jobs.scan(Scan(after=shown[1][0]), is_archived=False)] == ["job-1", "job-0"]
    assert [job.name for job in records.jobs.list(display_names=["what 1", "what 4"])] == ["job-4", "job-1"]


def test_the_steps_that_run_are_read_without_those_that_have_ended(records: Records) -> None:
    statuses = (StepStatus.COMPLETED, StepStatus.RUNNING, StepStatus.WAITING)
    for name, status in (("done", JobStatus.COMPLETED), ("open", JobStatus.RUNNING)):
        steps = [step_of(name, f"step-{status}", status=status) for status in statuses]
        records.jobs.add(job_named(name, status=status), steps)
    assert [(step.job, step.name) for step in records.steps.running()] == [("open", "step-running")]
