"""Adapters of deployments whose workers are fakes: loaded, proven, refused and unloaded, after every end of a worker too."""

from collections.abc import Iterator

import pytest

from mafunzo.control.serving.worker_folder import worker_folder, worker_token
from mafunzo.entities.adapter import AdapterState, AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from mafunzo.entities.scale import Scale
from tests.support.serving_bench import Bench
from tests.support.waiting import http

HEALTHY = DeploymentStatus.HEALTHY
LIVE, REFUSED = AdapterStatus.LIVE, AdapterStatus.REFUSED


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench with one healthy worker, for all tests whose adapters have names of their own."""
    made = Bench(tmp_path_factory.mktemp("served"))
    made.deploy(made.model())
    made.settle(HEALTHY)
    yield made
    made.close()


def settle(bench: Bench, name: str, status: AdapterStatus = LIVE) -> AdapterState:
    """Tick until an adapter stands so on all workers, which are healthy; return how it stands on the first."""

    def is_settled() -> bool:
        workers = bench.find().workers
        return all(one.status is HEALTHY and one.adapter_status(name) is status for one in workers)

    bench.tick_until(is_settled)
    state = bench.find().adapter_state(name)
    assert state is not None
    return state


def models_of(bench: Bench, worker: Deployment) -> list[str]:
    headers = {"Authorization": f"Bearer {worker_token(bench.home.secret(), worker)}"}
    answer = http.get(f"http://127.0.0.1:{worker.port}/v1/models", headers=headers)
    return [model["id"] for model in answer.json()["data"]]


def booked_mb(bench: Bench) -> int:
    [lease] = bench.leases.list()
    return lease.resources.memory_mb


def test_an_adapter_goes_live_proven_while_its_worker_goes_on(served: Bench) -> None:
    bench, before = served, served.find()
    bench.add_adapter("red", bench.adapter())
    state = settle(bench, "red")
    assert state.verification is not None and state.verification["result"] == "verified"
    assert (bench.find().attempt, bench.find().verification) == (before.attempt, before.verification)
    assert "chat:red" in models_of(bench, bench.find())


def test_one_that_differs_is_refused_alone_with_the_reason_and_unloaded(served: Bench) -> None:
    bench = served
    bench.add_adapter("bad", bench.adapter({"shift": -0.5}))
    bench.add_adapter("good", bench.adapter())
    settle(bench, "good")
    state = settle(bench, "bad", REFUSED)
    assert state.error is not None and state.error["code"] == "serving_mismatch"
    assert state.error["faults"][0].startswith("adapter: row 0, position 1, token")
    assert bench.find().error is None
    models = models_of(bench, bench.find())
    assert "chat:good" in models and "chat:bad" not in models


def test_one_of_another_base_is_refused_before_it_is_loaded(served: Bench) -> None:
    bench = served
    bench.add_adapter("other", bench.adapter(base="f" * 64))
    state = settle(bench, "other", REFUSED)
    assert state.error is not None
    assert "it was trained on its-base with weights ffffffffffff" in state.error["faults"][0]
    assert "chat:other" not in models_of(bench, bench.find())


def test_a_worker_more_has_the_adapters_too(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(2, 2))
    for name in ("red", "blue"):
        bench.add_adapter(name, bench.adapter({"reply": name}))
    bench.tick_until(lambda: len(bench.find().workers) == 2)
    settle(bench, "red")
    settle(bench, "blue")
    assert [models_of(bench, one) for one in bench.find().workers] == [["chat", "chat:red", "chat:blue"]] * 2


def test_a_server_that_comes_after_takes_over_what_is_live_and_ends_what_was_begun(served: Bench) -> None:
    bench = served
    bench.add_adapter("before", bench.adapter())
    settle(bench, "before")
    bench.add_adapter("blue", bench.adapter())
    bench.tick_until(lambda: bench.find().adapter_state("blue") is not None)
    bench.supervisor.close()
    bench.new_supervisor()
    state = settle(bench, "blue")
    assert (bench.find().attempt, state.attempt) == (1, 1)
    assert {"chat:before", "chat:blue"} <= set(models_of(bench, bench.find()))


def test_one_that_is_removed_is_unloaded_and_another_takes_its_name(served: Bench) -> None:
    bench = served
    bench.add_adapter("gone", before := bench.adapter({"reply": "gone"}))
    settle(bench, "gone")
    folders = worker_folder(bench.home, bench.find()) / "adapters"
    count = len(list(folders.iterdir()))
    bench.remove_adapter("gone")
    bench.tick_until(lambda: "gone" not in bench.find().adapter_states)
    assert "chat:gone" not in models_of(bench, bench.find())
    assert len(list(folders.iterdir())) == count - 1
    bench.add_adapter("gone", artifact := bench.adapter({"reply": "another"}))
    assert settle(bench, "gone").artifact == artifact != before


def test_an_adapter_that_ends_its_worker_is_given_up_and_the_others_are_there_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mafunzo.control.serving.adapter.MAX_LOADS", 1)
    bench.deploy(bench.model())
    bench.add_adapter("good", bench.adapter())
    settle(bench, "good")
    bench.add_adapter("poison", bench.adapter({"ends_worker": True}))
    offered = set()

    def is_refused() -> bool:
        offered.add((bench.find().offers("good"), bench.find().offers("poison")))
        if bench.find().status is DeploymentStatus.WAITING:
            bench.moved_s += 60
        now = bench.find()
        return now.status is HEALTHY and now.adapter_status("poison") is REFUSED

    bench.tick_until(is_refused)
    state = bench.find().adapter_state("poison")
    assert state is not None and state.error is not None
    assert "Workers ended while they loaded or proved it" in state.error["message"]
    settle(bench, "good")
    assert bench.find().attempt == 2
    assert offered == {(True, False)}


def test_what_an_adapter_takes_is_booked_and_one_without_room_is_refused(
    served: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = served
    sizes: dict[str, int] = {}
    for module in ("supervisor", "adapter_supervisor"):
        monkeypatch.setattr(
            f"mafunzo.control.serving.{module}.adapter_mb", lambda artifacts, artifact: sizes.get(artifact, 0)
        )
    before = bench.find().supervision.booked_mb
    small, large = bench.adapter({"reply": "small"}), bench.adapter({"reply": "large"})
    sizes |= {small: 300, large: 5000}
    bench.add_adapter("small", small)
    settle(bench, "small")
    assert booked_mb(bench) == before + 300
    bench.add_adapter("large", large)
    state = settle(bench, "large", REFUSED)
    assert state.error is not None and state.error["code"] == "out_of_memory"
    assert booked_mb(bench) == before + 300
    bench.remove_adapter("large")
    bench.remove_adapter("small")
    bench.tick_until(lambda: "small" not in bench.find().adapter_states)
    assert booked_mb(bench) == before
