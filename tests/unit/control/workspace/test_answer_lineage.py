"""Tests of `mafunzo.control.workspace.answer_lineage`: what has become of a deployment and its model since it answered."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.serving import request_log
from mafunzo.control.serving.answer_id import new_id
from mafunzo.control.serving.request_log import LoggedRequest
from mafunzo.control.workspace.lineage import Lineage
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.errors import InvalidParameter, NotFound
from tests.support import trained_model


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


class Answered:
    """An answer of the deployment chat/blue, which serves `m:1`, a model of the job `j1`."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self.workspace, self.records = workspace, workspace.records
        self.data = trained_model.add_rows(workspace.artifacts, folder / "rows")
        self.artifact = self.put(folder / "tuned")
        self.records.endpoints.add(Endpoint("chat"), keys=("a", "b"))
        self.deployment = self.records.deployments.add(Deployment("chat", "blue", "m:1", self.artifact))
        self.id = new_id(workspace.home.secret(), "chatcmpl", self.deployment.serving.reference)

    def put(self, folder: Path) -> str:
        folder.mkdir()
        (folder / "weights").write_text(folder.name)
        return self.workspace.artifacts.put(folder)

    def register(self) -> None:
        trained_model.add_job(self.records, self.data, self.artifact)
        trained_model.add_model(self.records, self.artifact, job="j1", data={"train_file_path": self.data})

    def trace(self, text: str | None = None) -> Lineage:
        return self.workspace.lineage(f"answer:{self.id}", text)

    def names(self) -> list[str]:
        return [f"{link.kind} {link.name}" for link in self.trace().links][1:]


@pytest.fixture
def answered(workspace: Workspace, tmp_path: Path) -> Answered:
    return Answered(workspace, tmp_path)


JOB = [
    "job j1",
    "input train_file_path = train.jsonl",
    "step package_model (completed)",
    "output package_model.mlflow_model",
]


def test_an_answer_leads_to_its_deployment_model_job_and_data(answered: Answered) -> None:
    answered.register()
    assert answered.names() == ["deployment chat/blue", "model m:1", *JOB]
    answered.trace().require_intact()


def test_an_answer_from_before_an_update_leads_to_the_version_that_gave_it(answered: Answered, tmp_path: Path) -> None:
    answered.register()
    newer = answered.put(tmp_path / "newer")
    answered.records.deployments.change("chat", "blue", lambda one: replace(one, model="m:2", artifact=newer))
    assert answered.names() == ["deployment chat/blue (serves m:2 now)", "model m:1", *JOB]


def test_a_deployment_that_was_deleted_is_told_also_where_it_was_made_again(answered: Answered) -> None:
    answered.register()
    answered.records.deployments.delete("chat", "blue")
    assert answered.names() == ["deployment chat/blue (deleted)", "model m:1", *JOB]
    answered.records.deployments.add(Deployment("chat", "blue", "m:1", answered.artifact))
    assert answered.names()[0] == "deployment chat/blue (deleted)"
    answered.records.endpoints.delete("chat")
    assert answered.names()[0] == "deployment chat/blue (deleted)"


def test_a_model_that_is_registered_no_more_leads_to_the_job_that_made_its_files(answered: Answered) -> None:
    trained_model.add_job(answered.records, answered.data, answered.artifact)
    assert answered.names() == ["deployment chat/blue", "model m:1 (no longer registered with these files)", *JOB]
    closest = answered.trace("zebras eat grass").closest
    assert closest is not None
    assert closest.rows[0].row == 2


def test_what_has_gone_altogether_is_said_to_be(answered: Answered) -> None:
    answered.workspace.artifacts.delete(answered.artifact)
    lineage = answered.trace("zebras eat grass")
    assert [(link.name, link.is_pruned) for link in lineage.links][2:] == [
        ("m:1 (no longer registered with these files)", True)
    ]
    assert lineage.closest is not None
    assert "no training rows are known: no fine-tuning job leads to it" in "\n".join(lineage.lines())


def test_rows_that_were_pruned_are_said_to_be(answered: Answered) -> None:
    answered.register()
    answered.workspace.artifacts.delete(answered.data)
    closest = answered.trace("zebras eat grass").closest
    assert closest is not None
    assert (closest.rows, closest.notes) == ((), ("train_file_path: its rows were pruned, or collected",))


def test_an_answer_that_was_kept_needs_no_text(answered: Answered) -> None:
    answered.register()
    assert answered.trace().closest is None
    kept = LoggedRequest(answered.id, "2026-11-30T10:00:00", "chat", "blue", "m:1", "/v1", 200, {}, "zebras eat grass")
    request_log.append(answered.workspace.home, answered.deployment.serving.reference, kept)
    closest = answered.trace().closest
    assert closest is not None
    assert closest.rows[0].row == 2
    assert "train.jsonl, row 2: BM25 " in "\n".join(answered.trace().lines())
    chosen = answered.trace("chai").closest
    assert chosen is not None
    assert [row.row for row in chosen.rows] == [3]


def test_a_job_that_was_deleted_leaves_its_models_rows(answered: Answered) -> None:
    trained_model.add_model(answered.records, answered.artifact, job="j1", data={"train_file_path": answered.data})
    assert answered.names()[2] == "job j1 (deleted)"
    closest = answered.trace("chai").closest
    assert closest is not None
    assert [row.row for row in closest.rows] == [3]


def test_ids_that_lead_nowhere_are_refused(answered: Answered) -> None:
    with pytest.raises(InvalidParameter, match="'chatcmpl-123' isn't the id of an answer of this home"):
        answered.workspace.lineage("answer:chatcmpl-123")
    strange = new_id(answered.workspace.home.secret(), "chatcmpl", "a" * 10)
    with pytest.raises(NotFound, match="restored from a backup that is older"):
        answered.workspace.lineage(f"answer:{strange}")


@pytest.mark.parametrize(
    ("text", "rows", "fault"),
    [
        pytest.param("...", 5, "The text has no word to look for", id="a text without words"),
        pytest.param("zebras", 0, "0 rows are to be listed, expected 1 to 1000", id="no rows"),
    ],
)
def test_what_can_not_be_looked_for_is_refused(answered: Answered, text: str, rows: int, fault: str) -> None:
    with pytest.raises(InvalidParameter, match=fault):
        answered.workspace.lineage(f"answer:{answered.id}", text, rows)


def test_what_an_earlier_version_deployed_is_remembered_at_the_start(answered: Answered) -> None:
    import sqlalchemy as sa

    from mafunzo.control.store import table

    with answered.workspace.database.transaction() as connection:
        connection.execute(sa.delete(table.serving))
    with pytest.raises(NotFound):
        answered.trace()
    answered.records.deployments.remember_all()
    answered.records.deployments.remember_all()
    assert answered.names()[0] == "deployment chat/blue"
