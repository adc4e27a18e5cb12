from datetime import timedelta

from mafunzo.control.store.records import Records
from mafunzo.entities.job import (
    StepStatus,
)
from tests.unit.control.store.records.sample import NOON, artifact_hash, job_named, step_of


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
