"""The webhook at a job's end, told to a real HTTP server on this machine."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.pipelines.decide import Finish
from mafunzo.control.store.outbox import Notice, Outbox
from mafunzo.control.workspace.server import loops_of, webhook_of
from mafunzo.control.workspace.stream import Follower
from mafunzo.control.workspace.webhook import GIVE_UP_S, Webhook, require_webhook
from mafunzo.entities.job import Job, JobStatus, Step, StepSpec, StepStatus
from mafunzo.errors import InvalidParameter
from tests.support.finished_job import BEGAN

REPORT = {
    "loss": 1.5,
    "comparisons": {"loss": {"is_better": True}},
    "verdict": "The tuned model is better on the held-out rows: loss went from 2 to 1.5.",
}


class Receiver:
    """A server that keeps what it is sent. status: what it answers with."""

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.bodies.append({**json.loads(body), "host": self.headers["Host"], "path": self.path})
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.address}/hook?key=secret"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> Iterator[Workspace]:
    monkeypatch.setenv("MAFUNZO_JOB_WEBHOOK", receiver.url)
    monkeypatch.setenv("MAFUNZO_INPUT_HOSTS", receiver.address)
    with Workspace(tmp_path / "home", port=0) as made:
        yield made


def add_job(workspace: Workspace, tmp_path: Path, report: Any = REPORT, **said: Any) -> Job:
    """Add a running job whose evaluation is done."""
    folder = tmp_path / "evaluation"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(report))
    stored = workspace.artifacts.put(folder)
    spec = StepSpec(name="evaluate", component="evaluate:1", code="", command="", is_trusted=True)
    step = Step("j", spec, StepStatus.COMPLETED, outputs={"evaluation_result": stored})
    job = Job("j", "Ours", "chat", "pipeline:1", status=JobStatus.RUNNING, started_at=BEGAN, **said)
    workspace.records.jobs.add(job, [step])
    return job


def webhook(workspace: Workspace, at: list[float] | None = None) -> Webhook:
    links = {"server": "http://127.0.0.1:8080"}
    return Webhook(workspace.services, workspace.services.job_webhook, lambda job: links, lambda: (at or [0.0])[0])


def end(workspace: Workspace, status: JobStatus = JobStatus.COMPLETED) -> None:
    """End the job as the scheduler does."""
    scheduler, _ = loops_of(workspace, lambda job, step, inputs, outputs: {}, ("/bin/false",))
    scheduler._performer.finish(Finish(workspace.records.jobs.get("j"), status))


def test_the_end_of_a_job_is_told_once_with_its_verdict_and_numbers(
    workspace: Workspace, tmp_path: Path, receiver: Receiver
) -> None:
    add_job(workspace, tmp_path)
    end(workspace)
    hook = webhook(workspace)
    hook.tick()
    hook.tick()
    (body,) = receiver.bodies
    ended_at = workspace.records.jobs.get("j").ended_at
    assert ended_at is not None and body.pop("ended_at") == ended_at.isoformat()
    assert body.pop("id") == f"j/{ended_at.isoformat()}"
    assert body.pop("created_at")
    assert body == {
        "event": "job_ended",
        "job": "j",
        "display_name": "Ours",
        "experiment": "chat",
        "status": "completed",
        "outcome": "better",
        "verdict": REPORT["verdict"],
        "metrics": {"loss": 1.5},
        "error": None,
        "started_at": BEGAN.isoformat(),
        "links": {"server": "http://127.0.0.1:8080"},
        "host": receiver.address,
        "path": "/hook?key=secret",
    }


@pytest.mark.parametrize(
    ("is_better", "verdict", "outcome"),
    [
        pytest.param(False, "The tuned model is worse", "worse", id="worse"),
        pytest.param(None, "No difference is shown", "equal", id="equal"),
        pytest.param(None, "No verdict: loss went", "unknown", id="too few rows"),
    ],
)
def test_the_outcome_is_what_the_evaluation_says(
    workspace: Workspace, tmp_path: Path, receiver: Receiver, is_better: bool | None, verdict: str, outcome: str
) -> None:
    add_job(workspace, tmp_path, {"comparisons": {"loss": {"is_better": is_better}}, "verdict": verdict})
    end(workspace, JobStatus.FAILED)
    webhook(workspace).tick()
    assert (receiver.bodies[0]["outcome"], receiver.bodies[0]["status"]) == (outcome, "failed")


def test_a_receiver_that_is_down_is_tried_again_after_longer_and_longer_and_nothing_is_lost(
    workspace: Workspace, tmp_path: Path, receiver: Receiver
) -> None:
    add_job(workspace, tmp_path)
    end(workspace)
    receiver.status, now = 503, [1000.0]
    tried = []
    for moment in (1000.0, 1000.5, 1001.0, 1002.5, 1003.0, 1006.9, 1007.0):
        now[0] = moment
        webhook(workspace, now).tick()  # each a server that was started anew
        tried.append(len(receiver.bodies))
    assert tried == [1, 1, 2, 2, 3, 3, 4]
    text = "it answers with 503 Service Unavailable; it is tried again."
    first = next(iter(Follower(workspace.services, "j").look()))
    assert first.text == f"http://{receiver.address} couldn't be told of the end of job j: {text}"
    receiver.status, now[0] = 200, 1060.0
    webhook(workspace, now).tick()
    assert len(receiver.bodies) == 5 and list(Outbox(workspace.home).notices()) == []
    assert "webhook" not in workspace.records.jobs.get("j").properties


def test_a_notice_that_can_never_be_delivered_is_given_up_and_the_job_says_so(
    workspace: Workspace, tmp_path: Path, receiver: Receiver
) -> None:
    add_job(workspace, tmp_path)
    end(workspace)
    ended_at = workspace.records.jobs.get("j").ended_at
    assert ended_at is not None
    receiver.status = 404
    webhook(workspace, [(ended_at + timedelta(seconds=GIVE_UP_S + 1)).timestamp()]).tick()
    assert list(Outbox(workspace.home).notices()) == []
    assert "it answers with 404 Not Found; it was given up." in workspace.records.jobs.get("j").properties["webhook"]


def test_a_job_that_has_not_ended_and_one_that_was_deleted_are_not_told(
    workspace: Workspace, tmp_path: Path, receiver: Receiver
) -> None:
    """The server went down between the notice and the job's end, which is written again then."""
    add_job(workspace, tmp_path)
    outbox = Outbox(workspace.home)
    outbox.put(Notice("j"))
    outbox.put(Notice("gone"))
    (tmp_path / "home" / "outbox" / "j.json").write_text("cut o")
    webhook(workspace).tick()
    assert receiver.bodies == [] and list(outbox.notices()) == [Notice("j")]


def test_an_address_that_is_not_public_is_asked_only_where_the_operator_lists_its_host(
    workspace: Workspace, tmp_path: Path, receiver: Receiver
) -> None:
    add_job(workspace, tmp_path)
    end(workspace)
    unlisted = replace(workspace.services, input_hosts=())
    Webhook(unlisted, receiver.url).tick()
    Webhook(unlisted, "https://127.0.0.1:1/hook").tick()
    assert receiver.bodies == []
    text = workspace.records.jobs.get("j").properties["webhook"]
    assert "isn't an https:// address. List the host in MAFUNZO_INPUT_HOSTS to allow it; it is tried again." in text
    assert "secret" not in text.partition(": ")[0]


@pytest.mark.parametrize("url", ["example.org/hook", "ftp://example.org", "https://"])
def test_what_is_no_address_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(InvalidParameter, match=r"MAFUNZO_JOB_WEBHOOK is '.*', expected an address like https"):
        require_webhook(url)


def test_without_a_webhook_nothing_is_written_and_nothing_runs(tmp_path: Path, receiver: Receiver) -> None:
    with Workspace(tmp_path / "home", port=0) as workspace:
        add_job(workspace, tmp_path)
        end(workspace)
        assert webhook_of(workspace, lambda job: {}) is None
        assert not (tmp_path / "home" / "outbox").exists()
