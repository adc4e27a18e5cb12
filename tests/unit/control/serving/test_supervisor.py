"""The serving loop on real processes: fakes that speak a worker's dialect."""

import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest

from mafunzo.control.launcher.local import ExitRecord, LocalLauncher, Running
from mafunzo.control.serving.decide import UNHEALTHY_PROBES, WorkerState
from mafunzo.control.serving.observer import Observer
from mafunzo.control.serving.worker_folder import worker_folder, worker_token
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint, Rollout, ServedModel, Supervision
from mafunzo.entities.scale import Scale
from tests.support.process import lives
from tests.support.rows_read import rows_read
from tests.support.serving_bench import Bench
from tests.support.waiting import http

HEALTHY = DeploymentStatus.HEALTHY


def running_pid(bench: Bench, name: str = "blue") -> int:
    status = LocalLauncher().status(worker_folder(bench.home, bench.find(name=name)))
    assert isinstance(status, Running)
    return status.pid


def kill_worker(bench: Bench) -> None:
    """Kill the worker itself, not the runner that records its end."""
    [worker] = psutil.Process(running_pid(bench)).children()
    os.kill(worker.pid, signal.SIGKILL)
    bench.tick_until(lambda: bench.find().status is not HEALTHY)


def test_a_deployment_goes_live_once_its_worker_is_verified(bench: Bench) -> None:
    bench.deploy(bench.model())
    found = bench.settle(HEALTHY)
    assert found.verification is not None
    assert found.verification["result"] == "verified"
    assert found.verification["rows"] == 2
    assert found.verification["largest_difference"] == 0
    token = worker_token(bench.home.secret(), found)
    answer = http.get(f"http://127.0.0.1:{found.port}/v1/models", headers={"Authorization": f"Bearer {token}"})
    assert answer.json()["data"][0]["id"] == "chat"


def test_a_worker_answers_nobody_but_its_server_and_shows_its_token_to_nobody(bench: Bench) -> None:
    bench.deploy(bench.model())
    found = bench.settle(HEALTHY)
    assert http.get(f"http://127.0.0.1:{found.port}/v1/models").status_code == 401
    token = worker_token(bench.home.secret(), found)
    processes = [psutil.Process(running_pid(bench)), *psutil.Process(running_pid(bench)).children()]
    assert all(token not in " ".join(process.cmdline()) for process in processes)
    assert all(token not in process.environ().values() for process in processes)
    file = worker_folder(bench.home, found) / "token"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (token, 0o600)


def test_a_model_without_a_reference_goes_live_and_its_record_says_unverified(bench: Bench) -> None:
    bench.deploy(bench.model(with_reference=False))
    found = bench.settle(HEALTHY)
    assert found.verification is not None
    assert found.verification["result"] == "unverified"
    assert "nothing to compare with" in found.verification["reason"]


def test_a_worker_that_differs_is_refused_ended_and_its_memory_given_back(bench: Bench) -> None:
    bench.deploy(bench.model({"shift": -0.5}))
    found = bench.settle(DeploymentStatus.REFUSED)
    assert found.error is not None
    assert found.error["code"] == "serving_mismatch"
    assert found.error["faults"][0].startswith("weights: row 0, position 1, token")
    assert found.port is None
    assert bench.leases.list() == []
    assert isinstance(LocalLauncher().status(worker_folder(bench.home, found)), ExitRecord)


def test_an_adapter_package_without_its_weights_is_refused_before_anything_starts(bench: Bench) -> None:
    folder = bench.files / "package" / "data" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    bench.deploy(bench.artifacts.put(folder.parents[1]))
    found = bench.settle(DeploymentStatus.REFUSED)
    assert found.error is not None
    assert found.error["faults"] == ["adapter: data/adapter/adapter_model.safetensors is missing from the package."]
    assert bench.leases.list() == []


def test_a_worker_that_crashes_is_started_again_after_its_delay(bench: Bench) -> None:
    bench.deploy(bench.model())
    first = bench.settle(HEALTHY)
    kill_worker(bench)
    waiting = bench.find()
    assert waiting.status is DeploymentStatus.WAITING
    assert waiting.port is None
    assert "killed by signal 9" in waiting.supervision.reason
    bench.supervisor.tick()
    assert bench.find().status is DeploymentStatus.WAITING, "not before its delay"
    bench.moved_s += 2
    second = bench.settle(HEALTHY)
    assert second.attempt == first.attempt + 1


def test_a_worker_that_never_starts_has_failed_after_three_attempts_with_its_log(bench: Bench) -> None:
    bench.deploy(bench.model({"exit_code": 1}))

    def has_failed() -> bool:
        if bench.find().status is DeploymentStatus.WAITING:
            bench.moved_s += 60
        return bench.find().status is DeploymentStatus.FAILED

    bench.tick_until(has_failed)
    found = bench.find()
    assert found.attempt == 3
    assert found.error is not None
    assert found.error["code"] == "worker_failed"
    assert "exit code 1; its last words were: error: the fake was told to end" in found.error["message"]
    assert found.error["faults"] == ["error: the fake was told to end"]
    assert bench.leases.list() == []


def test_a_worker_that_refuses_its_model_is_not_tried_again(bench: Bench) -> None:
    bench.deploy(bench.model({"exit_code": 3}))
    found = bench.settle(DeploymentStatus.FAILED)
    assert found.attempt == 1


def test_a_failed_deployment_that_is_made_anew_goes_live(bench: Bench) -> None:
    bench.deploy(bench.model({"exit_code": 3}))
    failed = bench.settle(DeploymentStatus.FAILED)
    anew = replace(
        failed, artifact=bench.model(), status=DeploymentStatus.WAITING, error=None, supervision=Supervision()
    )
    bench.records.deployments.update(anew)
    assert bench.settle(HEALTHY).attempt == 2


def test_a_worker_that_loads_for_too_long_has_failed(bench: Bench) -> None:
    bench.deploy(bench.model({"load_s": 3600}), initial_delay_s=600)
    bench.settle(DeploymentStatus.STARTING)
    bench.tick_until(lambda: (worker_folder(bench.home, bench.find()) / "port").exists())
    bench.moved_s += 601
    found = bench.settle(DeploymentStatus.FAILED)
    assert found.error is not None
    assert "wasn't healthy after 600 s: it was still loading its model. See its log." in found.error["message"]


def test_a_worker_that_stops_answering_gets_no_requests_until_it_answers_again(bench: Bench) -> None:
    bench.deploy(bench.model())
    healthy = bench.settle(HEALTHY)
    silence = worker_folder(bench.home, healthy) / "be_silent"
    silence.touch()

    def is_unhealthy() -> bool:
        bench.moved_s += 1
        return bench.find().status is DeploymentStatus.UNHEALTHY

    bench.tick_until(is_unhealthy)
    assert str(UNHEALTHY_PROBES) in bench.find().supervision.reason
    pid = running_pid(bench)
    silence.unlink()
    bench.tick_until(lambda: bench.find().status is HEALTHY)
    assert running_pid(bench) == pid
    assert bench.find().verification is not None


def test_the_next_server_adopts_a_worker_that_still_runs(bench: Bench) -> None:
    bench.deploy(bench.model())
    before = bench.settle(HEALTHY)
    pid = running_pid(bench)
    bench.new_supervisor()
    for _ in range(5):
        bench.supervisor.tick()
    assert bench.find() == before
    assert running_pid(bench) == pid


def test_the_next_server_goes_on_where_a_start_was_cut_off(bench: Bench) -> None:
    bench.deploy(bench.model({"load_s": 0.5}))
    bench.settle(DeploymentStatus.STARTING)
    pid = running_pid(bench)
    bench.new_supervisor()
    bench.settle(HEALTHY)
    assert running_pid(bench) == pid


def test_a_start_that_was_recorded_but_never_made_is_made_again(bench: Bench) -> None:
    bench.deploy(bench.model(), status=DeploymentStatus.STARTING, attempt=1)
    bench.moved_s += 5
    bench.tick_until(lambda: bench.find().status is DeploymentStatus.WAITING)
    bench.moved_s += 5
    assert bench.settle(HEALTHY).attempt == 2


def test_a_deployment_waits_visibly_for_memory_and_starts_when_it_is_free(bench: Bench) -> None:
    bench.new_supervisor(memory_mb=1000)
    bench.deploy(bench.model())
    bench.settle(HEALTHY)
    bench.deploy(bench.model(), name="green")
    bench.supervisor.tick()
    waiting = bench.find(name="green")
    assert waiting.status is DeploymentStatus.WAITING
    assert waiting.supervision.reason == "It needs 700 MB, which others hold. It starts as soon as they are done."
    assert not bench.supervisor.tick(), "waiting is no change"
    bench.records.deployments.update(replace(bench.find(), status=DeploymentStatus.DELETING))
    bench.settle(HEALTHY, name="green")


def test_a_model_that_no_machine_memory_can_hold_fails_at_once(bench: Bench) -> None:
    bench.new_supervisor(memory_mb=500)
    bench.deploy(bench.model())
    found = bench.settle(DeploymentStatus.FAILED)
    assert found.error is not None
    assert found.error["code"] == "out_of_memory"
    assert found.error["message"] == "It needs 700 MB; this machine has 500 MB, 2 cores. Serve a smaller model."


def test_deleting_an_endpoint_frees_processes_ports_memory_and_folders(bench: Bench) -> None:
    bench.deploy(bench.model())
    bench.deploy(bench.model(), name="green")
    bench.settle(HEALTHY)
    found = bench.settle(HEALTHY, name="green")
    pid = running_pid(bench, "green")
    bench.records.endpoints.update(replace(bench.records.endpoints.get("chat"), is_deleting=True))
    bench.tick_until(lambda: not bench.records.endpoints.list())
    assert not lives(pid)
    with pytest.raises(httpx.ConnectError):
        http.get(f"http://127.0.0.1:{found.port}/health")
    assert bench.leases.list() == []
    assert not (bench.home.workers / "chat").exists()


def test_a_deployment_that_is_verified_again_is_compared_anew(bench: Bench) -> None:
    bench.deploy(bench.model())
    before = bench.settle(HEALTHY)
    bench.moved_s += 3600
    bench.records.deployments.update(replace(before, status=DeploymentStatus.VERIFYING, verification=None))
    after = bench.settle(HEALTHY)
    assert after.verification is not None
    assert before.verification is not None
    assert after.verification["checked_at"] > before.verification["checked_at"]


def test_a_missing_model_is_told(bench: Bench) -> None:
    bench.deploy("sha256:" + "0" * 64)
    found = bench.settle(DeploymentStatus.FAILED)
    assert found.error is not None
    assert found.error["code"] == "not_found"


def test_workers_see_their_base_beside_their_adapter(bench: Bench, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    bench.deploy(bench.model(), base_artifact=bench.artifacts.put(base))
    found = bench.settle(HEALTHY)
    folder = worker_folder(bench.home, found)
    assert (folder / "base" / "config.json").exists()
    command = " ".join(psutil.Process(running_pid(bench)).children()[0].cmdline())
    assert f"--base {folder / 'base'}" in command


def test_a_worker_that_no_record_knows_of_is_ended_by_the_next_server(bench: Bench) -> None:
    bench.deploy(bench.model())
    bench.settle(HEALTHY)
    pid = running_pid(bench)
    bench.records.endpoints.delete("chat")
    bench.new_supervisor().tick()
    assert not lives(pid)


def test_a_folder_that_is_there_already_is_not_used_again(bench: Bench) -> None:
    (bench.home.workers / "chat" / "blue" / "4").mkdir(parents=True)
    bench.deploy(bench.model())
    assert bench.settle(HEALTHY).attempt == 5


def test_only_the_newest_attempts_keep_their_folders(bench: Bench) -> None:
    parent = bench.home.workers / "chat" / "blue"
    for number in range(1, 31):
        (parent / str(number)).mkdir(parents=True)
    bench.deploy(bench.model(), attempt=30)
    bench.settle(HEALTHY)
    assert sorted(int(folder.name) for folder in parent.iterdir()) == list(range(22, 32))


def test_a_deployment_that_can_not_be_looked_at_is_given_up_and_the_others_go_live(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Observer.state

    def broken(self: Observer, deployment: Deployment) -> WorkerState:
        if deployment.name == "odd":
            raise ValueError("its folder makes no sense")
        return look(self, deployment)

    monkeypatch.setattr(Observer, "state", broken)
    bench.deploy(bench.model(), name="odd")
    bench.deploy(bench.model(), name="blue")
    bench.settle(HEALTHY)
    odd = bench.settle(DeploymentStatus.FAILED, name="odd")
    assert odd.error is not None and odd.error["message"] == "ValueError: its folder makes no sense"


@pytest.mark.slow
def test_workers_are_ended_though_nothing_can_be_written_down(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.deploy(bench.model())
    bench.deploy(bench.model(), name="green")
    bench.settle(HEALTHY)
    bench.settle(HEALTHY, name="green")
    folders = [worker_folder(bench.home, bench.find(name=name)) for name in ("blue", "green")]

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("database or disk is full")

    monkeypatch.setattr(bench.supervisor, "_update", full)
    bench.supervisor.halt()
    assert not any(isinstance(LocalLauncher().status(folder), Running) for folder in folders)


def test_with_nothing_written_a_tick_reads_nothing(bench: Bench) -> None:
    bench.supervisor.tick()
    with rows_read() as rows:
        for _ in range(5):
            bench.supervisor.tick()
    assert rows.total() == 0
    bench.records.endpoints.add(Endpoint("more"), ("1", "2"))
    with rows_read() as rows:
        bench.supervisor.tick()
    assert rows["endpoint"] >= 1


def workers(bench: Bench, name: str = "blue") -> dict[str, DeploymentStatus]:
    return {worker.worker: worker.status for worker in bench.find(name=name).workers}


def settle_workers(bench: Bench, count: int) -> list[Deployment]:
    """Wait until a deployment has so many workers, and all are healthy."""
    bench.tick_until(lambda: list(workers(bench).values()) == [HEALTHY] * count)
    return list(bench.find().workers)


@pytest.mark.slow
def test_each_worker_of_a_deployment_is_a_process_of_its_own_with_its_own_memory(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(3, 3))
    each = settle_workers(bench, 3)
    assert len({worker.port for worker in each}) == len({worker.attempt for worker in each}) == 3
    assert [lease.owner for lease in bench.leases.list()] == [
        "worker:chat/blue",
        "worker:chat/blue#2",
        "worker:chat/blue#3",
    ]
    for worker in each:
        token = worker_token(bench.home.secret(), worker)
        headers = {"Authorization": f"Bearer {token}"}
        assert http.get(f"http://127.0.0.1:{worker.port}/v1/models", headers=headers).status_code == 200
        assert worker.verification is not None and worker.verification["result"] == "verified"


def test_a_model_that_does_not_answer_as_tuned_starts_one_worker_only(bench: Bench) -> None:
    bench.deploy(bench.model({"shift": -0.5}), scale=Scale(3, 3))
    bench.settle(DeploymentStatus.REFUSED)
    bench.supervisor.tick()
    assert workers(bench) == {"blue": DeploymentStatus.REFUSED}


def test_one_of_several_workers_that_dies_is_replaced_after_its_delay_and_the_other_goes_on(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(2, 2), is_new=True)
    bench.settle(HEALTHY)
    assert bench.find().is_new, "one of two answers"
    first, second = settle_workers(bench, 2)
    bench.tick_until(lambda: not bench.find().is_new)
    status = LocalLauncher().status(worker_folder(bench.home, first))
    assert isinstance(status, Running)
    for process in psutil.Process(status.pid).children():
        os.kill(process.pid, signal.SIGKILL)
    bench.tick_until(lambda: workers(bench)["blue"] is DeploymentStatus.WAITING)
    assert (bench.find().status, bench.find().port) == (HEALTHY, second.port), "the deployment answers"
    bench.supervisor.tick()
    assert workers(bench)["blue"] is DeploymentStatus.WAITING, "not before its delay"
    bench.moved_s += 2
    assert {worker.attempt for worker in settle_workers(bench, 2)} == {second.attempt, second.attempt + 1}
    assert not bench.find().is_new


@pytest.mark.slow
def test_the_next_server_adopts_all_workers(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(2, 2))
    settle_workers(bench, 2)
    before = bench.find()
    bench.new_supervisor()
    for _ in range(5):
        bench.supervisor.tick()
    assert bench.find() == before


def test_what_fits_no_more_waits_by_name_and_starts_when_there_is_room(bench: Bench) -> None:
    bench.new_supervisor(memory_mb=1500)
    bench.deploy(bench.model(), scale=Scale(3, 3))
    bench.tick_until(lambda: list(workers(bench).values()) == [HEALTHY, HEALTHY, DeploymentStatus.WAITING])
    bench.supervisor.tick()
    waiting = bench.find().workers[-1]
    assert waiting.supervision.reason == "It needs 700 MB, which others hold. It starts as soon as they are done."
    bench.records.deployments.update(replace(bench.find(), scale=Scale(2, 2)))
    settle_workers(bench, 2)


def test_a_worker_that_is_not_needed_ends_with_its_last_request(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(2, 2))
    _, second = settle_workers(bench, 2)
    bench.supervisor.loads.take(second)
    bench.records.deployments.update(replace(bench.find(), scale=Scale(1, 1)))
    bench.tick_until(lambda: workers(bench).get("blue#2") is DeploymentStatus.DRAINING)
    for _ in range(3):
        bench.supervisor.tick()
    folder = worker_folder(bench.home, second)
    assert isinstance(LocalLauncher().status(folder), Running)
    bench.supervisor.loads.free(second)
    bench.tick_until(lambda: workers(bench) == {"blue": HEALTHY})
    assert isinstance(LocalLauncher().status(folder), ExitRecord)
    assert [lease.owner for lease in bench.leases.list()] == ["worker:chat/blue"]


def test_an_idle_deployment_gives_its_memory_back_and_a_request_wakes_it(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(0, 2, idle_s=600))
    woken = bench.settle(HEALTHY)
    bench.moved_s += 2
    bench.supervisor.tick()
    bench.moved_s += 500
    bench.supervisor.tick()
    assert bench.find().status is HEALTHY, "not before its idle time is over"
    bench.moved_s += 100
    idle = bench.settle(DeploymentStatus.IDLE)
    assert (idle.port, bench.leases.list()) == (None, [])
    assert "The next one starts a worker" in idle.supervision.reason
    bench.new_supervisor().loads.enter(idle)
    again = bench.settle(HEALTHY)
    assert again.attempt == woken.attempt + 1
    bench.moved_s += 3600
    bench.supervisor.tick()
    bench.supervisor.tick()
    assert bench.find().status is HEALTHY, "a request that is answered for long is load"


def test_the_time_in_which_a_worker_starts_is_no_idle_time(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(0, 1, idle_s=600))
    bench.settle(DeploymentStatus.STARTING)
    bench.moved_s += 590
    bench.settle(HEALTHY)
    bench.moved_s += 590
    bench.supervisor.tick()
    assert bench.find().status is HEALTHY


def test_a_lease_that_ends_takes_its_deployment_and_the_last_one_its_endpoint(bench: Bench) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    bench.deploy(bench.model(), expires_at=soon, ttl_s=3600.0)
    bench.deploy(bench.model(), name="green")
    bench.settle(HEALTHY)
    bench.settle(HEALTHY, name="green")
    endpoint = bench.records.endpoints.get("chat")
    bench.records.endpoints.update(replace(endpoint, traffic_percent={"blue": 60, "green": 40}))
    bench.supervisor.tick()
    assert bench.find().status is HEALTHY, "not before"
    bench.supervisor.moment = lambda: soon
    bench.tick_until(lambda: [one.name for one in bench.records.deployments.list()] == ["green"])
    assert bench.records.endpoints.get("chat").traffic_percent == {"green": 100}
    bench.records.deployments.update(bench.find(name="green").leased(0.0, soon))
    bench.tick_until(lambda: not bench.records.endpoints.list())
    assert bench.leases.list() == []


def test_a_lease_that_ended_while_no_server_ran_takes_its_deployment_at_once(bench: Bench) -> None:
    bench.deploy(bench.model(), expires_at=datetime.now(UTC) - timedelta(days=1))
    bench.tick_until(lambda: not bench.records.endpoints.list())


def test_more_load_starts_more_workers_up_to_the_most(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(1, 3))
    only = bench.settle(HEALTHY)
    for _ in range(200):
        bench.supervisor.loads.enter(only)
    bench.moved_s += 2
    settle_workers(bench, 3)


def test_a_deployment_with_several_workers_is_deleted_whole(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(2, 2))
    pids = [LocalLauncher().status(worker_folder(bench.home, worker)) for worker in settle_workers(bench, 2)]
    bench.records.deployments.update(replace(bench.find(), status=DeploymentStatus.DELETING))
    bench.tick_until(lambda: not bench.records.deployments.list())
    assert not any(lives(running.pid) for running in pids if isinstance(running, Running))
    assert (bench.leases.list(), list((bench.home.workers / "chat").glob("*"))) == ([], [])


def test_all_workers_are_halted(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(2, 2))
    settle_workers(bench, 2)
    assert bench.supervisor.halt() == ["chat/blue", "chat/blue#2"]
    assert bench.leases.list() == []
    settle_workers(bench, 2)


@pytest.mark.slow
def test_a_crash_loop_of_one_worker_leaves_the_folder_of_another(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(2, 2))
    first, second = settle_workers(bench, 2)
    crashed = replace(second, attempt=50, status=DeploymentStatus.WAITING, port=None)
    bench.supervisor._end(second)
    bench.records.deployments.update(bench.find().with_worker(crashed))
    assert [worker.attempt for worker in settle_workers(bench, 2)] == [first.attempt, 51]
    assert worker_folder(bench.home, first).exists()


def update(bench: Bench, artifact: str) -> None:
    """Ask for another version of a deployment's model."""
    record = bench.find()
    rollout = Rollout(ServedModel("m:2", artifact), record.served, len(record.workers))
    bench.records.deployments.update(replace(record, rollout=rollout))


def test_an_update_replaces_each_worker_while_another_answers(bench: Bench) -> None:
    bench.deploy(bench.model(), scale=Scale(2, 2))
    settle_workers(bench, 2)
    second = bench.model({"reply": "another"})
    update(bench, second)

    def is_over() -> bool:
        found = bench.find()
        assert found.status is HEALTHY, "a worker answers all the time"
        return found.rollout is None

    bench.tick_until(is_over)
    assert [(one.model, one.artifact, one.status) for one in bench.find().workers] == [("m:2", second, HEALTHY)] * 2
    assert len(bench.leases.list()) == 2


def test_an_update_to_what_does_not_answer_as_tuned_is_taken_back(bench: Bench) -> None:
    first = bench.deploy(bench.model()).artifact
    before = bench.settle(HEALTHY)
    update(bench, bench.model({"shift": -0.5}))
    bench.tick_until(lambda: len(bench.find().workers) == 2)
    bench.tick_until(lambda: len(bench.find().workers) == 1)
    after = bench.find()
    assert (after.artifact, after.status, after.port) == (first, HEALTHY, before.port)
    assert after.rollout is not None and after.rollout.error is not None
    assert after.rollout.error["code"] == "serving_mismatch"
    assert [lease.owner for lease in bench.leases.list()] == ["worker:chat/blue"]
    assert not bench.supervisor.tick(), "it stays so"


def test_the_next_server_goes_on_with_an_update(bench: Bench) -> None:
    bench.deploy(bench.model())
    bench.settle(HEALTHY)
    second = bench.model({"load_s": 0.3, "reply": "another"})
    update(bench, second)
    bench.tick_until(lambda: len(bench.find().workers) == 2)
    bench.new_supervisor()
    bench.tick_until(lambda: bench.find().rollout is None)
    assert [one.artifact for one in bench.find().workers] == [second]
