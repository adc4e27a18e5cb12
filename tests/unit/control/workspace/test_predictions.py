"""Tests of batch scoring's verbs: what is planned, what is refused at once, and how the answers become a file."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.job import NOTES, Job, JobStatus, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.errors import InvalidParameter, JobFailed, NotFound

ANSWER = '{"row": 1, "answer": "b"}\n'


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setattr(Workspace, "up", lambda _: None)
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (file := tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    return file


def test_a_job_imports_the_model_and_answers_the_rows(workspace: Workspace, rows: Path) -> None:
    job = workspace.batch_score("tiny-llama", rows, max_tokens=8, stop="it's", job_name="score")
    imported, scored = job.steps
    assert (imported.name, scored.name) == ("import_model", "batch_score")
    assert scored.spec.literals["max_new_tokens"] == 8
    assert scored.spec.literals["stop"] == "it's"
    assert job.job.display_name == "tiny-llama on rows.jsonl"
    assert job.job.properties[NOTES] == [
        "1 of the 2 rows can't be answered and get an error each, the first one (rows.jsonl, row 2): asks nothing (it has: "
        "text). Known are messages; conversations (ShareGPT); prompt, instruction, question, query or input; input_string"
    ]


def test_all_faults_come_at_once_and_nothing_is_stored(workspace: Workspace, tmp_path: Path) -> None:
    (file := tmp_path / "rows.jsonl").write_text('{"text": "b"}')
    with pytest.raises(InvalidParameter) as refusal:
        workspace.batch_score("tiny-lama", file, temperature=3, top_p=0, max_batc=1)
    text = str(refusal.value)
    for fault in (
        "tiny-lama",
        "temperature is 3",
        "top_p is 0",
        "Did you mean max_batch?",
        "no row that can be answered",
    ):
        assert fault in text
    assert workspace.artifacts.hashes() == []
    with pytest.raises(InvalidParameter) as refusal:
        workspace.batch_score()
    assert len(refusal.value.faults) == 2


def finished(workspace: Workspace, output: str, status: JobStatus = JobStatus.COMPLETED) -> str:
    folder = workspace.home.root / "made"
    folder.mkdir()
    (folder / "predictions.jsonl").write_text(ANSWER)
    (folder / "report.json").write_text(
        json.dumps({"rows": 1, "answered": 1, "failed": 0, "file": "predictions.jsonl"})
    )
    outputs = {output: workspace.artifacts.put(folder)} if status is JobStatus.COMPLETED else {}
    spec = StepSpec("batch_score", "batch_score:1", "sha256:0", "true", outputs={output: "uri_folder"}, is_trusted=True)
    job = Job("score", "s", "s", "batch_score_pipeline:1", outputs={output: StepOutputInput("batch_score", output)})
    step_status = StepStatus.COMPLETED if outputs else StepStatus.FAILED
    workspace.records.jobs.add(job, [Step("score", spec, step_status, 1, outputs=outputs)])
    return job.name


def test_the_answers_are_written_whole(workspace: Workspace, tmp_path: Path) -> None:
    report = workspace.jobs.write_predictions(finished(workspace, "predictions"), tmp_path / "answers.jsonl")
    assert report["answered"] == 1
    assert (tmp_path / "answers.jsonl").read_text() == ANSWER
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["answers.jsonl"]


def test_a_job_without_answers_is_told(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no output 'predictions'"):
        workspace.jobs.write_predictions(finished(workspace, "evaluation_result"), tmp_path / "answers.jsonl")


def test_a_job_that_failed_has_none(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(JobFailed):
        workspace.jobs.write_predictions(finished(workspace, "predictions", JobStatus.FAILED), tmp_path / "a.jsonl")
