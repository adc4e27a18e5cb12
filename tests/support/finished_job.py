"""A home as a finished job leaves it, without having run one."""

import json
from datetime import UTC, datetime

from mafunzo.control.store.home import Home
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.entities.job import ArtifactInput, Job, JobStatus, LiteralInput, Step, StepSpec, StepStatus

BEGAN = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def add_finished_job(home: Home) -> None:
    """Leave behind what a finished fine-tuning step leaves."""
    inputs = {
        "learning_rate": LiteralInput(0.0002),
        "train_file_path": ArtifactInput("sha256:" + "0" * 64, "train.jsonl"),
    }
    spec = StepSpec(
        name="finetune", component="finetune:1", code="sha256:1", command="true", inputs=inputs, is_trusted=True
    )
    step = Step("job1", spec, StepStatus.COMPLETED, attempt=1, started_at=BEGAN, ended_at=BEGAN)
    job = Job(
        name="job1",
        display_name="tiny on chitchat",
        experiment="chat",
        component="chat_completion_pipeline:1",
        inputs={"learning_rate": 0.0002, "train_file_path": {"artifact": "sha256:0", "name": "train.jsonl"}},
        status=JobStatus.COMPLETED,
        tags={"team": "one"},
        started_at=BEGAN,
        ended_at=BEGAN,
    )
    database = open_database(home)
    try:
        Records(database).jobs.add(job, [step])
    finally:
        database.close()
    folder = home.jobs / "job1" / "finetune" / "1"
    folder.mkdir(parents=True)
    lines = [{"time": 1767268800 + n, "step": n, "loss": 3.0 - n / 10} for n in range(1, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
