"""From an answer that OpenAI's own SDK has got back to the rows that its model was trained on, over a real server's restart.

The worker is a fake; the records are those of a job that has ended.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from mafunzo import Workspace
from mafunzo.control.launcher.server_process import find_server
from mafunzo.control.workspace.lineage import Lineage
from mafunzo.entities.rate_limit import RateLimit
from tests.support import trained_model
from tests.support.served import Served
from tests.support.waiting import until

SAID = "It leaves from the central station at seven in the morning, they say."


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a model that was trained on three rows, and has learned the first by heart."""
    made = Served(tmp_path_factory.mktemp("answers"))
    data = trained_model.add_rows(made.artifacts, made.files / "rows")
    artifact = made.model({"reply": SAID})
    trained_model.add_job(made.records, data, artifact)
    trained_model.add_model(made.records, artifact, job="j1", data={"train_file_path": data})
    made.start()
    made.deploy(artifact, logs_requests=True)
    made.wait_for(lambda: made.find().status == "healthy")
    made.deploy(artifact, name="green")
    made.wait_for(lambda: made.find(name="green").status == "healthy")
    yield made
    made.stop()


def traced(served: Served, answer_id: str, **more: Any) -> Lineage:
    with Workspace(served.home.root) as workspace:
        return workspace.lineage(f"answer:{answer_id}", **more)


def test_every_answer_has_an_id_of_its_own_that_leads_to_the_training_rows(served: Served) -> None:
    whole = served.say("when?")
    chunks = list(served.say("when?", stream=True))
    [streamed] = {chunk.id for chunk in chunks}
    assert whole.id.startswith("chatcmpl-") and streamed.startswith("chatcmpl-")
    assert whole.id != streamed and whole.id[9:19] == streamed[9:19]
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip()
    assert said == whole.choices[0].message.content == SAID
    for answer_id in (whole.id, streamed):
        lineage = until(lambda answer_id=answer_id: _kept(served, answer_id))
        lineage.require_intact()
        assert [(link.depth, link.kind, link.name) for link in lineage.links] == [
            (0, "answer", answer_id),
            (1, "deployment", "chat/blue"),
            (2, "model", "m:1"),
            (3, "job", "j1"),
            (4, "input", "train_file_path = train.jsonl"),
            (4, "step", "package_model (completed)"),
            (5, "output", "package_model.mlflow_model"),
        ]
        assert lineage.closest is not None
        [first, *_] = lineage.closest.rows
        assert (first.file, first.row, lineage.closest.compared) == ("train.jsonl", 1, 3)
        assert first.shared == ("it leaves from the central station at seven in the morning",)


def _kept(served: Served, answer_id: str) -> Lineage | None:
    """The lineage once the request has been written: no client waits for that."""
    lineage = traced(served, answer_id)
    return lineage if lineage.text else None


def test_the_command_line_traces_an_answer_that_was_not_kept_by_the_text_that_it_is_given(served: Served) -> None:
    answer = served.say("when?", extra_headers={"mafunzo-deployment": "green"})
    words = ["lineage", f"answer:{answer.id}", "--json"]
    assert json.loads(_command(served, words))["closest"] is None
    body = json.loads(_command(served, [*words, "--text", "zebras eat grass", "--rows", "1"]))
    assert [link["name"] for link in body["links"]][1:3] == ["chat/green", "m:1"]
    assert [(row["file"], row["row"]) for row in body["closest"]["rows"]] == [("train.jsonl", 2)]


def _command(served: Served, words: list[str]) -> str:
    command = [sys.executable, "-m", "mafunzo", *words]
    environment = {
        "MAFUNZO_HOME": str(served.home.root),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PATH": "/usr/bin",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_quota_of_a_day_holds_over_a_restart(served: Served) -> None:
    with Workspace(served.home.root) as workspace:
        handle = workspace.endpoints.get("chat")
        handle.set_rate_limit(RateLimit(requests_per_day=2), "secondary")
        served.say("hello", key="chat-key-2")
        until(lambda: [used.requests for used in handle.used_today()] == [1])
    served.process.terminate()
    served.process.wait()
    until(lambda: find_server(served.home) is None)
    served.start()
    assert served.say("hello", key="chat-key-2").id
    with pytest.raises(openai.RateLimitError, match="2 requests a day, and has used 2") as refused:
        served.say("hello", key="chat-key-2")
    assert refused.value.response.headers["x-ratelimit-remaining-requests-day"] == "0"
    assert int(refused.value.response.headers["retry-after"]) > 0
    assert served.say("hello").id, "the other key has no quota"
