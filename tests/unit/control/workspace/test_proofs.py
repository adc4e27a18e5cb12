"""The proof made again, of workers that answer as each test says: a row each, and what is written down."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.serving.decide import Verdict
from mafunzo.control.workspace import proofs
from mafunzo.entities.adapter import Adapter, AdapterState, AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Supervision
from mafunzo.entities.verification import ProofResult
from mafunzo.errors import NotFound
from tests.support.chat_home import TOO_SLOW, chat, chat_home, deployed

HEALTHY, LIVE = DeploymentStatus.HEALTHY, AdapterStatus.LIVE
VERIFIED, REFUSED, FAILED = ProofResult.VERIFIED, ProofResult.REFUSED, ProofResult.FAILED
GOOD = Verdict(record={"result": "verified", "rows": 4, "exact_rows": 4})
BAD = Verdict(("BOS: it is left out.",), {"result": "refused", "faults": ["BOS: it is left out."], "rows": 4})
ADAPTERS = {name: Adapter(f"{name}:1", f"sha256:{str(number) * 20}") for number, name in enumerate(("a", "b"), 1)}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with chat_home(tmp_path) as opened:
        yield opened


class Answers:
    """The verdicts on workers by port, and on adapters by what requests call them; whoever isn't named is good."""

    def __init__(self) -> None:
        self.verdicts: dict[int | str, Verdict | Exception] = {}
        self.asked: list[tuple[str, str | None, str]] = []

    def verify_folder(
        self, folder: Path, url: str, headers: Any, model: str | None = None, timeout_s: float = 0.0
    ) -> Verdict:
        self.asked.append((url, model, str(folder)))
        assert headers["Authorization"].startswith("Bearer ")
        verdict = self.verdicts.get(model or int(url.rpartition(":")[2]), GOOD)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    made = Answers()
    monkeypatch.setattr(proofs, "verify_folder", made.verify_folder)
    return made


def with_adapters(workspace: Workspace, name: str, port: int, **states: AdapterStatus) -> Deployment:
    """Deploy a worker that has the adapters, each as it stands."""
    of_worker = {one: AdapterState(ADAPTERS[one].artifact, 1, status) for one, status in states.items()}
    return deployed(workspace, name, HEALTHY, port=port, attempt=1, adapters=ADAPTERS, adapter_states=of_worker)


def rows(workspace: Workspace, deployment: str | None = None) -> list[tuple[str, str | None, ProofResult]]:
    return [(one.worker, one.adapter, one.result) for one in chat(workspace).verify(deployment)]


def test_no_deployment_hides_another_whatever_is_wrong_with_it(workspace: Workspace, answers: Answers) -> None:
    deployed(workspace, "bad", HEALTHY, port=1, attempt=1)
    deployed(workspace, "failed", DeploymentStatus.FAILED, error=TOO_SLOW)
    deployed(workspace, "gone", HEALTHY, port=2, attempt=1)
    deployed(workspace, "good", HEALTHY, port=3, attempt=1)
    deployed(workspace, "idle", DeploymentStatus.IDLE, supervision=Supervision(reason="No request came for long."))
    deployed(workspace, "odd", HEALTHY, port=4, attempt=1)
    answers.verdicts |= {1: BAD, 2: Verdict(broke="ConnectError: refused"), 4: ValueError("no JSON")}
    told = chat(workspace).verify()
    assert [(one.deployment, one.result) for one in told] == [
        ("bad", REFUSED),
        ("failed", FAILED),
        ("gone", FAILED),
        ("good", VERIFIED),
        ("idle", FAILED),
        ("odd", FAILED),
    ]
    assert [one.why for one in told] == [
        "BOS: it is left out.",
        "It was too slow. a: 1 b: 2",
        "It couldn't be asked: ConnectError: refused. Look at its log: mafunzo endpoint logs chat",
        "",
        "Its worker idle is idle: it can't be asked. No request came for long.",
        "It couldn't be asked: ValueError: no JSON. Look at its log: mafunzo endpoint logs chat",
    ]


def test_adapters_are_asked_by_their_names_beside_the_model(workspace: Workspace, answers: Answers) -> None:
    with_adapters(workspace, "blue", 9, a=LIVE, b=LIVE)
    answers.verdicts["chat:b"] = BAD
    assert rows(workspace) == [("blue", None, VERIFIED), ("blue", "a", VERIFIED), ("blue", "b", REFUSED)]
    folder = str(workspace.home.workers / "chat" / "blue" / "1")
    assert answers.asked == [
        ("http://127.0.0.1:9", None, f"{folder}/model"),
        ("http://127.0.0.1:9", "chat:a", f"{folder}/adapters/{'1' * 16}"),
        ("http://127.0.0.1:9", "chat:b", f"{folder}/adapters/{'2' * 16}"),
    ]


def test_adapters_that_are_not_live_have_rows_too(workspace: Workspace, answers: Answers) -> None:
    made = with_adapters(workspace, "blue", 9, a=AdapterStatus.LOADING)
    refused = AdapterState(ADAPTERS["b"].artifact, 1, AdapterStatus.REFUSED, verification=BAD.record)
    states = {**made.adapter_states, "b": refused}
    workspace.records.deployments.update(replace(made, adapter_states=states))
    _, loading, refusal = chat(workspace).verify()
    assert (loading.result, loading.why) == (FAILED, "It is loading: it can't be asked yet.")
    assert (refusal.result, refusal.why, refusal.rows) == (REFUSED, "BOS: it is left out.", 4)
    assert len(answers.asked) == 1


def test_what_was_compared_is_kept_with_its_time(workspace: Workspace, answers: Answers) -> None:
    with_adapters(workspace, "blue", 9, a=LIVE, b=LIVE)
    told = chat(workspace).verify()
    assert chat(workspace).proofs() == told
    assert all(one.checked_at and one.exact_rows == 4 for one in told)
    kept = workspace.deployments.get("chat", "blue")
    assert kept.status is HEALTHY, "it goes on answering"
    assert kept.adapter_states["a"].status is LIVE


def test_what_differs_is_left_to_the_supervisor_which_looks_once_more(workspace: Workspace, answers: Answers) -> None:
    with_adapters(workspace, "blue", 9, a=LIVE, b=LIVE)
    answers.verdicts |= {9: BAD, "chat:b": BAD}
    chat(workspace).verify()
    kept = workspace.deployments.get("chat", "blue")
    assert (kept.status, (kept.verification or {})["result"]) == (DeploymentStatus.VERIFYING, "refused")
    assert (kept.adapter_status("a"), kept.adapter_status("b")) == (LIVE, AdapterStatus.LOADING)


def test_every_worker_is_asked_but_for_those_that_end(workspace: Workspace, answers: Answers) -> None:
    one = deployed(workspace, "blue", HEALTHY, port=1, attempt=1)
    two = one.with_worker(replace(one, number=1, port=2, attempt=2))
    workspace.records.deployments.update(
        two.with_worker(replace(one, number=2, attempt=3, status=DeploymentStatus.DRAINING))
    )
    assert rows(workspace) == [("blue", None, VERIFIED), ("blue#2", None, VERIFIED)]
    workers = workspace.deployments.get("chat", "blue").workers
    assert ["checked_at" in (worker.verification or {}) for worker in workers] == [True, True, False]


def test_another_worker_that_came_meanwhile_keeps_its_own_proof(
    workspace: Workspace, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = with_adapters(workspace, "blue", 9, a=LIVE, b=LIVE)
    asked = answers.verify_folder

    def restarted(*options: Any, **more: Any) -> Verdict:
        workspace.records.deployments.update(replace(made, attempt=2))
        return asked(*options, **more)

    monkeypatch.setattr(proofs, "verify_folder", restarted)
    answers.verdicts |= {9: BAD, "chat:a": BAD}
    chat(workspace).verify()
    kept = workspace.deployments.get("chat", "blue")
    assert (kept.status, kept.verification, kept.attempt) == (HEALTHY, None, 2)
    assert set(kept.adapter_states) == {"a", "b"}


def test_a_deployment_that_is_gone_when_its_proof_ends_has_its_row(
    workspace: Workspace, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(workspace, "blue", HEALTHY, port=1, attempt=1)
    asked = answers.verify_folder

    def deleted(*options: Any, **more: Any) -> Verdict:
        workspace.records.deployments.delete("chat", "blue")
        return asked(*options, **more)

    monkeypatch.setattr(proofs, "verify_folder", deleted)
    assert rows(workspace) == [("blue", None, VERIFIED)]


def test_one_deployment_is_verified_alone(workspace: Workspace, answers: Answers) -> None:
    deployed(workspace, "blue", HEALTHY, port=1, attempt=1)
    deployed(workspace, "green", HEALTHY, port=2, attempt=1)
    assert rows(workspace, "green") == [("green", None, VERIFIED)]
    with pytest.raises(NotFound, match=r"'gren'.*Did you mean green"):
        chat(workspace).verify("gren")


def test_an_endpoint_without_deployments_has_nothing_to_verify(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match=r"Endpoint chat has no deployment to verify\. Make one: mafunzo deploy"):
        chat(workspace).verify()
