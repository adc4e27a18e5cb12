"""A file of rows that is answered by a job whose step is killed on the way: every row once, in the order of the file."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from mafunzo import Workspace
from tests.support.waiting import LIMIT_S, until

ROWS = 120


@pytest.mark.slow
def test_a_killed_job_goes_on_from_what_it_has_saved_and_answers_each_row_once(
    workspace: Workspace, tmp_path: Path
) -> None:
    lines = [json.dumps({"prompt": f"Question {number}"}) for number in range(1, ROWS)]
    (rows := tmp_path / "rows.jsonl").write_text("\n".join([*lines, "{"]))
    job = workspace.batch_score("tiny-llama", rows, max_new_tokens=32, max_batch=4, save_interval_s=0)
    attempt = workspace.home.jobs / job.name / "batch_score" / "1"
    until(lambda: list(attempt.glob("outputs/*/checkpoint-*/manifest.json")) or job.status.is_terminal)
    assert not job.status.is_terminal, job.logs("batch_score")
    runner = psutil.Process(json.loads((attempt / "process.json").read_text())["pid"])
    for process in [runner, *runner.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
    job.wait(timeout_s=LIMIT_S)
    assert job.step("batch_score").attempt == 2
    assert "Going on: " in job.logs("batch_score")
    report = workspace.jobs.write_predictions(job.name, tmp_path / "answers.jsonl")
    assert (report["rows"], report["answered"], report["failed"]) == (ROWS, ROWS - 1, 1)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["row"] for answer in answers] == list(range(1, ROWS + 1))
    assert answers[1]["messages"] == [{"role": "user", "content": "Question 2"}]
    assert "error" in answers[-1]
