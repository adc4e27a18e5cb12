"""Jobs of two-line shell components, as real processes."""

import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from mafunzo.control.launcher import local
from mafunzo.control.launcher.local import ExitRecord, LocalLauncher
from mafunzo.control.pipelines import performer
from mafunzo.control.pipelines.performer import PATIENT_GRACE_S
from mafunzo.control.store.cluster_token import keep_token
from mafunzo.entities.compute import Compute, Placement
from mafunzo.entities.environment import Environment
from mafunzo.entities.job import Job, JobStatus, Resources, Step, StepStatus
from mafunzo.tracking.step_folder import SAVES_FIRST, StepFolder
from tests.support.pipeline_bench import Bench, shell
from tests.support.process import lives
from tests.support.waiting import until

UPPER = shell("upper", "tr a-z A-Z < ${{inputs.data}} > ${{outputs.out}}")
TWICE = shell("twice", "cat ${{inputs.data}} ${{inputs.data}} > ${{outputs.out}}")
HOLD = shell("hold", "echo holding; until [ -e ${{inputs.gate}} ]; do sleep 0.02; done; echo done > ${{outputs.out}}")
BOOM = shell("boom", "echo something broke; exit 3; : ${{outputs.out}}")
CHAIN = {"upper": UPPER, "twice": TWICE}
BOUND = {"twice": {"data": "upper.out"}}


def test_steps_run_in_order_and_their_outputs_are_stored(bench: Bench) -> None:
    job = bench.run("j", CHAIN, {"data": bench.file("a.txt", "hello\n")}, BOUND)
    assert job.status == JobStatus.COMPLETED and job.error is None
    assert job.created_at and job.started_at and job.ended_at and job.created_at <= job.started_at <= job.ended_at
    assert bench.statuses("j") == {"upper": "completed", "twice": "completed"}
    assert bench.read("j", "twice") == "HELLO\nHELLO\n"
    assert bench.leases.list() == [] and bench.leftovers() == []


def test_what_is_said_of_a_job_while_it_begins_or_ends_stays(bench: Bench) -> None:
    bench.submit("j", shell("one", "true"))
    seen = bench.records.jobs.get("j")
    bench.records.jobs.update(replace(seen, description="said meanwhile"))
    bench.scheduler._performer.begin(seen)
    assert bench.records.jobs.get("j").description == "said meanwhile"
    assert bench.finish("j").status is JobStatus.COMPLETED
    assert bench.records.jobs.get("j").description == "said meanwhile"


def test_a_finished_step_s_folder_keeps_only_what_tells_of_it(bench: Bench) -> None:
    noisy = shell(
        "noisy", "echo hi; echo '{}' > $MAFUNZO_STEP_FOLDER/metrics.jsonl; cp ${{inputs.data}} ${{outputs.out}}"
    )
    bench.run("j", noisy, {"data": bench.file("a.txt", "hello\n")})
    kept = {path.name for path in bench.folder("j", "noisy").iterdir()}
    assert kept == {"log.txt", "metrics.jsonl", "exit.json", "process.json"}
    assert bench.log("j", "noisy") == "hi\n"


def test_independent_branches_run_side_by_side(bench: Bench) -> None:
    meet = "touch {0}; until [ -e {1} ]; do sleep 0.02; done; echo {0} > ${{{{outputs.out}}}}"
    one, two = bench.root / "one", bench.root / "two"
    branches = {"a": shell("a", meet.format(one, two)), "b": shell("b", meet.format(two, one))}
    assert bench.run("j", branches).status == JobStatus.COMPLETED


def test_a_folder_flows_from_step_to_step(bench: Bench) -> None:
    make = shell("make", "mkdir ${{outputs.folder}}/sub; echo x > ${{outputs.folder}}/sub/x.txt")
    read = shell("read", "cat '${{inputs.folder}}/sub/x.txt' > ${{outputs.out}}")
    bench.run("j", {"make": make, "read": read}, bindings={"read": {"folder": "make.folder"}})
    assert bench.read("j", "read") == "x\n"


def test_a_file_keeps_its_name_for_the_step(bench: Bench) -> None:
    name = shell("name", "basename ${{inputs.data}} > ${{outputs.out}}")
    bench.run("j", name, {"data": bench.file("it's here.jsonl", "x")})
    assert bench.read("j", "name") == "it's here.jsonl\n"


def test_a_step_that_is_not_ours_may_write_to_its_inputs_without_harm(bench: Bench) -> None:
    spoil = shell("spoil", "echo spoiled >> ${{inputs.data}}; cp ${{inputs.data}} ${{outputs.out}}")
    given = bench.file("a.txt", "hello\n")
    bench.run("j", spoil, {"data": given})
    assert bench.read("j", "spoil") == "hello\nspoiled\n"
    assert bench.artifacts.verify(given.artifact) == []


def test_one_of_ours_gets_a_link_that_is_read_only(bench: Bench) -> None:
    look = shell("look", "stat -c '%a %h' ${{inputs.data}} > ${{outputs.out}}")
    bench.run("j", look, {"data": bench.file("a.txt", "x")}, is_trusted=True)
    mode, links = bench.read("j", "look").split()
    assert mode == "444" and int(links) >= 2


def test_code_is_where_the_command_works(bench: Bench) -> None:
    code = bench.root / "code"
    code.mkdir()
    (code / "main.sh").write_text("echo from code > $1")
    bench.submit("j", shell("own", "bash main.sh ${{outputs.out}}"))
    step = bench.step("j", "own")
    bench.records.steps.update(replace(step, spec=replace(step.spec, code_artifact=bench.artifacts.put(code))))
    bench.finish("j")
    assert bench.read("j", "own") == "from code\n"


def test_variables_of_the_component_and_the_cores_that_it_holds_are_set(bench: Bench) -> None:
    component = shell(
        "env", "echo $MODE $OMP_NUM_THREADS > ${{outputs.out}}", environment={"MODE": "x"}, resources=Resources(cpus=2)
    )
    bench.run("j", component)
    assert bench.read("j", "env") == "x 2\n"


def test_a_users_own_step_is_told_what_its_ways_in_say_unless_it_says_so_itself(tmp_path: Path) -> None:
    def told(job: Job, step: Step, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Mapping[str, str]:
        return {"JOB": f"{job.name}/{step.name}", "TOLD": inputs["data"], "MODE": "told", "OUT": outputs["out"]}

    bench = Bench(tmp_path, user_variables=told)
    try:
        show = shell(
            "show",
            "cat ${{inputs.data}} > ${{outputs.out}}; echo $JOB $MODE $(cat $TOLD) >> $OUT",
            environment={"MODE": "own"},
        )
        bench.run("j", show, {"data": bench.file("a.txt", "x")})
        assert bench.read("j", "show") == "xj/show own x\n"
        bench.run("ours", show, {"data": bench.file("a.txt", "y")}, is_trusted=True)
        assert bench.statuses("ours") == {"show": "failed"}
    finally:
        bench.close()


# Failure


def test_a_failed_step_says_why_and_what_follows_is_skipped(bench: Bench) -> None:
    job = bench.run("j", {"boom": BOOM, "upper": UPPER}, bindings={"upper": {"data": "boom.out"}})
    assert job.status == JobStatus.FAILED
    step, log = bench.step("j", "boom"), bench.folder("j", "boom") / "log.txt"
    assert step.error == {
        "code": "step_failed",
        "message": f"Step 'boom' ended with exit code 3; the last lines of {log}:",
        "faults": ["something broke"],
        "exit_code": 3,
        "signal": None,
        "log": str(log),
    }
    assert job.error is not None and job.error["step"] == "boom" and job.error["message"] == step.error["message"]
    assert bench.statuses("j") == {"boom": "failed", "upper": "skipped"}
    assert bench.step("j", "upper").reason == "step 'boom' failed"
    assert bench.leases.list() == []


def test_the_error_that_a_component_recorded_is_the_step_s(bench: Bench) -> None:
    record = '{"code": "invalid_data", "message": "train.jsonl is bad.", "faults": ["row 17"]}'
    bench.run("j", shell("own", f"echo noise; echo '{record}' > $MAFUNZO_STEP_FOLDER/error.json; exit 2"))
    error = bench.step("j", "own").error
    assert error is not None
    assert (error["code"], error["message"], error["faults"]) == ("invalid_data", "train.jsonl is bad.", ["row 17"])
    assert error["exit_code"] == 2
    assert bench.records.jobs.get("j").error == {**error, "message": "Step 'own': train.jsonl is bad.", "step": "own"}


def test_half_an_error_record_falls_back_to_the_log(bench: Bench) -> None:
    bench.run(
        "j", shell("own", "echo 'Traceback'; printf '{\"code\": \"inv' > $MAFUNZO_STEP_FOLDER/error.json; exit 2")
    )
    error = bench.step("j", "own").error
    assert error is not None and error["faults"] == ["Traceback"]


def test_a_step_that_does_not_write_its_outputs_fails(bench: Bench) -> None:
    bench.run("j", shell("lazy", "true ${{outputs.out}} ${{outputs.model}} ${{outputs.folder}}"))
    step = bench.step("j", "lazy")
    assert step.status == StepStatus.FAILED and step.outputs == {} and step.error is not None
    assert [fault.split(" ")[0] for fault in step.error["faults"]] == ["out", "model"]
    assert step.error["exit_code"] == 0 and step.error["log"].endswith("log.txt")


def test_a_step_is_tried_again_as_often_as_it_may(bench: Bench) -> None:
    counts = bench.root / "counts"
    third = shell("third", f"echo x >> {counts}; [ $(wc -l < {counts}) = 3 ] && echo ok > ${{{{outputs.out}}}}")
    bench.run("j", {"third": third}, bindings={"third": {"retries": 2}})
    step = bench.step("j", "third")
    assert (step.status, step.attempt) == (StepStatus.COMPLETED, 3)
    assert step.reason == "attempt 2 failed; retry 2 of 2"


def failed_once(bench: Bench, counts: Path) -> Step:
    """A step that failed the first time, was put back, and is to be tried again a minute from now."""
    second = shell("second", f"echo x >> {counts}; [ $(wc -l < {counts}) = 2 ] && echo ok > ${{{{outputs.out}}}}")
    bench.submit("j", {"second": second}, bindings={"second": {"retries": 1}})
    bench.until(lambda: bench.step("j", "second").retry_at is not None and bench.leases.list() == [])
    bench.moved_s = -60.0
    return bench.step("j", "second")


def test_a_step_that_failed_waits_before_it_is_tried_again_and_says_for_how_long(bench: Bench) -> None:
    step = failed_once(bench, bench.root / "counts")
    assert step.status == StepStatus.WAITING
    assert step.reason == "attempt 1 failed; retry 1 of 1; starts again in 1 s"
    bench.scheduler.tick()
    bench.scheduler.tick()
    assert bench.step("j", "second") == step
    bench.finish("j")
    step = bench.step("j", "second")
    assert (step.status, step.attempt, step.retry_at) == (StepStatus.COMPLETED, 2, None)
    assert step.reason == "attempt 1 failed; retry 1 of 1"


def test_the_next_scheduler_waits_as_long_as_the_one_before_would_have(bench: Bench) -> None:
    step = failed_once(bench, bench.root / "counts")
    bench.scheduler = bench.new_scheduler()
    bench.scheduler.tick()
    assert bench.step("j", "second") == step
    assert bench.finish("j").status == JobStatus.COMPLETED


def test_a_step_that_waits_to_be_tried_again_is_cancelled_at_once(bench: Bench) -> None:
    failed_once(bench, bench.root / "counts")
    bench.records.jobs.request_cancel("j")
    assert bench.finish("j").status == JobStatus.CANCELED
    assert bench.step("j", "second").attempt == 1


def test_a_step_fails_after_its_last_retry(bench: Bench) -> None:
    job = bench.run("j", {"boom": BOOM}, bindings={"boom": {"retries": 1}})
    assert job.status == JobStatus.FAILED and bench.step("j", "boom").attempt == 2


def test_a_failure_ends_the_other_branches(bench: Bench) -> None:
    bench.submit(
        "j",
        {"hold": HOLD, "boom": shell("boom", f"until [ -e {bench.root}/go ]; do sleep 0.02; done; exit 1")},
        {"gate": "/never"},
    )
    bench.until(lambda: "holding" in bench.log("j", "hold"))
    (bench.root / "go").touch()
    assert bench.finish("j").status == JobStatus.FAILED
    assert bench.statuses("j") == {"hold": "canceled", "boom": "failed"}
    assert bench.step("j", "hold").reason == "step 'boom' failed" and bench.leftovers() == []


def test_a_job_may_continue_on_failure(bench: Bench) -> None:
    job = bench.run(
        "j",
        {"boom": BOOM, "after": TWICE, "upper": UPPER, "twice": TWICE},
        {"data": bench.file("a.txt", "x\n")},
        {"after": {"data": "boom.out"}, "twice": {"data": "upper.out"}},
        continue_on_step_failure=True,
    )
    assert job.status == JobStatus.FAILED
    assert bench.statuses("j") == {"boom": "failed", "after": "skipped", "upper": "completed", "twice": "completed"}


def test_a_step_whose_input_is_damaged_fails_and_names_it(bench: Bench) -> None:
    given = bench.file("a.txt", "hello\n")
    bench.submit("j", UPPER, {"data": given})
    bench.artifacts.delete(given.artifact)
    assert bench.finish("j").status == JobStatus.FAILED
    error = bench.step("j", "upper").error
    assert error is not None and error["code"] == "not_found" and given.artifact in error["message"]
    assert bench.leases.list() == []


# Cancelling


def test_cancelling_ends_every_process_of_the_tree(bench: Bench) -> None:
    pids = bench.root / "pids"
    command = f"setsid sleep 600 & echo $! >> {pids}; (sleep 600 & echo $! >> {pids}); echo ready; wait; sleep 600; : ${{{{outputs.out}}}}"
    bench.submit("j", {"tree": shell("tree", command), "upper": UPPER}, bindings={"upper": {"data": "tree.out"}})
    bench.until(lambda: "ready" in bench.log("j", "tree"))
    grandchildren = [int(line) for line in pids.read_text().split()]
    assert all(lives(pid) for pid in grandchildren)
    bench.records.jobs.request_cancel("j")
    assert bench.finish("j").status == JobStatus.CANCELED
    assert bench.statuses("j") == {"tree": "canceled", "upper": "canceled"}
    assert bench.leftovers() == [] and not any(lives(pid) for pid in grandchildren)
    assert bench.leases.list() == []


@pytest.mark.parametrize("saves_first", [False, True])
def test_a_job_that_is_to_save_first_has_its_steps_end_in_their_own_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, saves_first: bool
) -> None:
    graces: list[float] = []
    inner = LocalLauncher.kill

    def kill(self: LocalLauncher, folder: Path, grace_s: float = 10.0) -> None:
        graces.append(grace_s)
        inner(self, folder, grace_s)

    monkeypatch.setattr(LocalLauncher, "kill", kill)
    bench.submit("j", shell("waits", "sleep 600"))
    bench.until(lambda: bench.statuses("j") == {"waits": "running"})
    if saves_first:
        (bench.home.jobs / "j" / SAVES_FIRST).touch()
    bench.records.jobs.request_cancel("j")
    assert bench.finish("j").status == JobStatus.CANCELED
    assert (PATIENT_GRACE_S in graces) is saves_first


def test_a_job_that_waits_is_cancelled_without_running(bench: Bench) -> None:
    bench.submit("j", UPPER, {"data": bench.file("a.txt", "x")})
    bench.records.jobs.request_cancel("j")
    assert bench.finish("j").status == JobStatus.CANCELED
    assert bench.step("j", "upper").attempt == 0


# Reuse


def test_the_same_work_is_not_done_twice(bench: Bench) -> None:
    given = {"data": bench.file("a.txt", "hello\n")}
    bench.run("one", CHAIN, given, BOUND)
    assert bench.step("one", "upper").reason == "it runs for the first time"
    bench.run("two", CHAIN, given, BOUND)
    assert bench.statuses("two") == {"upper": "cached", "twice": "cached"}
    assert bench.step("two", "upper").reason == "same as one/upper"
    assert bench.read("two", "twice") == "HELLO\nHELLO\n" and bench.step("two", "twice").attempt == 0
    assert bench.records.jobs.get("two").status == JobStatus.COMPLETED


def test_what_runs_again_says_why(bench: Bench) -> None:
    limit = shell("limit", "head -c ${{inputs.max}} ${{inputs.data}} > ${{outputs.out}}")
    both = {"limit": limit, "twice": TWICE}
    bound = {"twice": {"data": "limit.out"}}
    given = {"data": bench.file("a.txt", "hello\n"), "max": "3"}
    bench.run("one", both, given, bound)
    bench.run("two", both, {**given, "max": "4"}, bound)
    assert bench.step("two", "limit").reason == "max 3 -> 4 (since one)"
    assert bench.step("two", "twice").reason == "input data changed (since one)"
    bench.run("three", {**both, "twice": replace(TWICE, version="2")}, {**given, "max": "4"}, bound)
    assert bench.statuses("three") == {"limit": "cached", "twice": "completed"}
    assert bench.step("three", "twice").reason == "code of twice changed (since two)"
    bench.versions["python"] = "4"
    bench.run("four", both, given, bound)
    assert bench.step("four", "limit").reason == "max 4 -> 3; python 3 -> 4 (since three)"


def test_a_change_that_makes_no_difference_stops_there(bench: Bench) -> None:
    bench.run("one", CHAIN, {"data": bench.file("a.txt", "hello\n")}, BOUND)
    bench.run("two", CHAIN, {"data": bench.file("a.txt", "HELLO\n")}, BOUND)
    assert bench.statuses("two") == {"upper": "completed", "twice": "cached"}


def test_force_rerun_runs_all_again(bench: Bench) -> None:
    given = {"data": bench.file("a.txt", "hello\n")}
    bench.run("one", CHAIN, given, BOUND)
    bench.run("two", CHAIN, given, BOUND, force_rerun=True)
    assert bench.statuses("two") == {"upper": "completed", "twice": "completed"}
    assert bench.step("two", "upper").reason == "force_rerun is set"
    bench.run("three", CHAIN, given, BOUND)
    assert bench.step("three", "upper").reason == "same as two/upper"


def test_a_step_that_is_not_deterministic_runs_each_time(bench: Bench) -> None:
    dice = shell("dice", "echo $RANDOM > ${{outputs.out}}", is_deterministic=False)
    bench.run("one", dice)
    bench.run("two", dice)
    assert bench.statuses("two") == {"dice": "completed"}
    assert bench.step("two", "dice").reason == "it isn't deterministic"


def test_a_failed_step_is_not_reused(bench: Bench) -> None:
    bench.run("one", {"boom": BOOM})
    bench.run("two", {"boom": BOOM})
    assert bench.step("two", "boom").attempt == 1


def test_outputs_that_were_deleted_are_made_again(bench: Bench) -> None:
    given = {"data": bench.file("a.txt", "hello\n")}
    bench.run("one", UPPER, given)
    bench.artifacts.delete(bench.step("one", "upper").outputs["out"])
    bench.run("two", UPPER, given)
    assert bench.step("two", "upper").reason == "its outputs in one were deleted"
    assert bench.read("two", "upper") == "HELLO\n"


# The queue


def test_two_jobs_never_share_a_core_and_the_second_waits_visibly(bench: Bench) -> None:
    whole = replace(HOLD, resources=Resources(cpus=2))
    gate = bench.root / "gate"
    bench.submit("one", whole, {"gate": str(gate)})
    bench.until(lambda: "holding" in bench.log("one", "hold"))
    bench.submit(
        "two",
        whole,
        {
            "gate": str(gate),
        },
        force_rerun=True,
    )
    bench.submit("three", whole, {"gate": str(gate)}, force_rerun=True)
    bench.until(lambda: bench.step("three", "hold").reason)
    assert bench.step("two", "hold").reason == "waits for 2 cores; one/hold holds 2 cores; position 1 in the queue"
    assert bench.step("three", "hold").reason == "waits for 2 cores; one/hold holds 2 cores; position 2 in the queue"
    assert bench.records.jobs.get("two").status == JobStatus.QUEUED
    assert [lease.owner for lease in bench.leases.list()] == ["job:one/hold"]
    gate.touch()
    bench.finish("one", "two", "three")
    assert bench.step("one", "hold").ended_at <= bench.step("two", "hold").started_at  # type: ignore[operator]


def test_the_more_urgent_job_runs_first(bench: Bench) -> None:
    order = bench.root / "order"
    whole = shell(
        "whole", f"echo ${{{{inputs.name}}}} >> {order}; touch ${{{{outputs.out}}}}", resources=Resources(cpus=2)
    )
    for name, priority in (("low", -1), ("normal", 0), ("high", 5)):
        bench.submit(name, whole, {"name": name}, priority=priority)
    bench.finish("low", "normal", "high")
    assert order.read_text().split() == ["high", "normal", "low"]


def test_what_a_worker_holds_is_waited_for(bench: Bench) -> None:
    bench.leases.take("endpoint/blue/1", Resources(cpus=2), bench.capacity)
    bench.submit("j", UPPER, {"data": bench.file("a.txt", "x")})
    bench.until(lambda: bench.step("j", "upper").reason)
    assert bench.step("j", "upper").reason == "waits for 1 core; endpoint/blue/1 holds 2 cores; position 1 in the queue"
    bench.leases.release("endpoint/blue/1")
    assert bench.finish("j").status == JobStatus.COMPLETED


# After a crash


def held_up(bench: Bench, **more: Any) -> Path:
    """Submit job `j`, which runs until the returned file exists."""
    gate = bench.root / "gate"
    bench.submit(
        "j", {"hold": HOLD, "twice": TWICE}, {"gate": str(gate)}, {"twice": {"data": "hold.out"}, "hold": more}
    )
    bench.until(lambda: "holding" in bench.log("j", "hold"))
    return gate


def test_the_next_scheduler_adopts_what_still_runs(bench: Bench) -> None:
    gate = held_up(bench)
    bench.scheduler = bench.new_scheduler()
    bench.scheduler.tick()
    gate.touch()
    assert bench.finish("j").status == JobStatus.COMPLETED
    assert bench.step("j", "hold").attempt == 1 and bench.read("j", "twice") == "done\ndone\n"


@pytest.mark.parametrize(
    "victim", [pytest.param("runner", marks=pytest.mark.slow), pytest.param("command", marks=pytest.mark.slow), "all"]
)
def test_a_step_that_was_cut_off_runs_again(bench: Bench, victim: str) -> None:
    gate = held_up(bench)
    runner = psutil.Process(
        int((bench.folder("j", "hold") / "process.json").read_text().split('"pid": ')[1].split(",")[0])
    )
    tree = [runner, *runner.children(recursive=True)]
    for process in {"runner": tree[:1], "command": tree[1:2], "all": tree}[victim]:
        with suppress(psutil.NoSuchProcess):  # a command ends by itself once its runner is gone
            process.send_signal(signal.SIGKILL)
    bench.until(lambda: bench.step("j", "hold").attempt == 2)
    assert bench.step("j", "hold").reason == "attempt 1 was cut off"
    gate.touch()
    assert bench.finish("j").status == JobStatus.COMPLETED
    assert bench.leftovers() == []


SAVES = shell(
    "saves",
    "save() { sleep 1; mkdir ${{outputs.folder}}/checkpoint-7; echo {} > ${{outputs.folder}}/checkpoint-7/manifest.json; "
    "exit 143; }; trap save TERM; echo training; while :; do sleep 0.02; done",
)
"""Takes longer to save what it has than a user's own step may take to end."""


def test_one_of_ours_has_the_time_to_save_a_checkpoint_which_the_next_attempt_finds(bench: Bench) -> None:
    bench.submit("j", SAVES, is_trusted=True)
    bench.until(lambda: "training" in bench.log("j", "saves"))
    bench.scheduler.close()
    assert bench.scheduler.halt() == ["j/saves"]
    assert checkpoints(bench) == {"1": ["checkpoint-7"]}
    bench.scheduler = bench.new_scheduler()
    bench.until(lambda: bench.step("j", "saves").attempt == 2)
    bench.until(lambda: "training" in bench.log("j", "saves"))  # it is there to be ended with the bench
    assert checkpoints(bench)["1"] == ["checkpoint-7"]


def test_a_cancelled_step_keeps_its_checkpoints_and_nothing_else(bench: Bench) -> None:
    bench.submit("j", SAVES, is_trusted=True)
    bench.until(lambda: "training" in bench.log("j", "saves"))
    bench.records.jobs.request_cancel("j")
    assert bench.finish("j").status is JobStatus.CANCELED
    assert checkpoints(bench) == {"1": ["checkpoint-7"]}
    assert not (bench.folder("j", "saves") / "inputs").exists()
    bench.new_scheduler().tick()
    assert checkpoints(bench) == {"1": ["checkpoint-7"]}, "a start of the server cleans up what was left, and not that"


def test_a_failed_step_keeps_the_checkpoints_of_all_its_attempts(bench: Bench) -> None:
    """The last attempt may have ended before it could go on from anything."""
    once = "[ -e ${{inputs.name}} ] && exit 3; touch ${{inputs.name}}; mkdir ${{outputs.folder}}/checkpoint-7; "
    fails = shell("saves", f"{once} echo {{}} > ${{{{outputs.folder}}}}/checkpoint-7/manifest.json; exit 3")
    bindings = {"saves": {"retries": 1}}
    bench.run("j", {"saves": fails}, {"name": str(bench.root / "once")}, bindings, is_trusted=True)
    assert bench.step("j", "saves").attempt == 2
    assert checkpoints(bench) == {"1": ["checkpoint-7"], "2": []}


def checkpoints(bench: Bench) -> dict[str, list[str]]:
    """The checkpoints of each attempt of the step `saves`."""
    attempts = sorted(path.parent for path in (bench.home.jobs / "j" / "saves").glob("*/log.txt"))
    return {path.name: [one.name for one in StepFolder(path).checkpoints] for path in attempts}


@pytest.mark.slow
def test_a_step_that_is_cut_off_each_time_fails_in_the_end(bench: Bench) -> None:
    bench.run("j", shell("suicide", "echo last words; kill -9 $$"))
    step = bench.step("j", "suicide")
    assert step.status == StepStatus.FAILED and step.attempt == 11 and step.error is not None
    assert step.error["message"].startswith("Step 'suicide': it was cut off 11 times; the last lines of")
    assert step.error["faults"] == ["last words"]


def test_a_step_that_was_cut_off_and_then_waits_says_why_it_runs_again(bench: Bench) -> None:
    bench.submit("j", UPPER, {"data": bench.file("a.txt", "hello\n")})
    bench.leases.take("worker", bench.capacity, bench.capacity)
    bench.records.steps.update(replace(bench.step("j", "upper"), attempt=1, reason="attempt 1 was cut off"))
    bench.until(lambda: bench.step("j", "upper").reason.startswith("waits for 1 core; worker"))
    bench.leases.release("worker")
    assert bench.finish("j").status == JobStatus.COMPLETED
    assert bench.step("j", "upper").reason == "attempt 1 was cut off"


def test_a_crash_between_the_row_and_the_process_runs_the_step(bench: Bench) -> None:
    """The scheduler died after it took the lease and wrote that the step runs, before it started anything."""
    bench.submit("j", UPPER, {"data": bench.file("a.txt", "hello\n")})
    step = bench.step("j", "upper")
    bench.leases.take("job:j/upper", Resources(cpus=2), bench.capacity)
    bench.records.steps.update(replace(step, status=StepStatus.RUNNING, attempt=1))
    assert bench.finish("j").status == JobStatus.COMPLETED
    assert bench.step("j", "upper").attempt == 2 and bench.leases.list() == []


def test_a_crash_between_the_lease_and_the_row_gives_the_lease_back(bench: Bench) -> None:
    bench.leases.take("job:j/upper", Resources(cpus=2), bench.capacity)
    bench.submit("j", UPPER, {"data": bench.file("a.txt", "hello\n")})
    bench.submit("k", TWICE, {"data": bench.file("a.txt", "hello\n")}, priority=1)
    assert bench.finish("j", "k").status == JobStatus.COMPLETED and bench.leases.list() == []


def test_a_crash_before_the_folder_was_cleaned_cleans_it_later(bench: Bench) -> None:
    bench.run("j", UPPER, {"data": bench.file("a.txt", "hello\n")})
    bench.run("f", {"boom": BOOM})
    for folder in (bench.folder("j", "upper"), bench.folder("f", "boom")):
        for name in ("inputs", "outputs", "code"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "x").touch()
    bench.new_scheduler().tick()
    assert not [name for name in ("inputs", "outputs", "code") if (bench.folder("j", "upper") / name).exists()]
    assert [path.name for path in bench.folder("f", "boom").iterdir() if path.is_dir()] == ["outputs"], (
        "to be looked at"
    )


def test_what_a_step_left_in_the_background_is_ended_with_it(bench: Bench) -> None:
    bench.run("j", shell("daemon", "setsid sleep 600 & echo x > ${{outputs.out}}"))
    assert bench.statuses("j") == {"daemon": "completed"} and bench.leftovers() == []


# The loop


def test_the_loop_runs_until_it_is_stopped_and_leaves_steps_running(bench: Bench) -> None:
    stop = threading.Event()
    loop = threading.Thread(target=bench.scheduler.run, args=(stop,))
    loop.start()
    bench.submit("j", HOLD, {"gate": str(bench.root / "gate")})
    bench.scheduler.wake()
    try:
        until(lambda: "holding" in bench.log("j", "hold"))
    finally:
        stop.set()
        bench.scheduler.wake()
        loop.join()
    assert bench.leftovers()
    (bench.root / "gate").touch()
    bench.scheduler = bench.new_scheduler()
    assert bench.finish("j").status == JobStatus.COMPLETED


def test_halting_ends_what_runs_and_it_goes_on_at_the_next_start(bench: Bench) -> None:
    gate = held_up(bench)
    for attempt in range(1, 4):
        bench.scheduler.close()
        assert bench.scheduler.halt() == ["j/hold"]
        assert bench.leftovers() == [] and bench.leases.list() == []
        assert bench.step("j", "hold").reason == f"attempt {attempt} was cut off when the server was stopped"
        bench.scheduler = bench.new_scheduler()
        bench.until(lambda begun=attempt: bench.step("j", "hold").attempt == begun + 1)
        bench.until(lambda: "holding" in bench.log("j", "hold"))
    gate.touch()
    assert bench.finish("j").status == JobStatus.COMPLETED
    assert bench.scheduler.halt() == []


def test_halting_keeps_the_work_of_a_step_that_has_just_ended(bench: Bench) -> None:
    gate = held_up(bench)
    gate.touch()
    until(lambda: (bench.folder("j", "hold") / "exit.json").exists())
    bench.scheduler.close()
    assert bench.scheduler.halt() == []
    bench.scheduler = bench.new_scheduler()
    assert bench.finish("j").status == JobStatus.COMPLETED
    assert bench.step("j", "hold").attempt == 1


def test_a_full_disk_while_outputs_are_stored_fails_the_step_and_not_the_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mafunzo.control.store.artifact import Artifacts
    from mafunzo.errors import StorageFull

    def full(self: Artifacts, path: Path, is_final: bool = False) -> str:
        raise StorageFull("The disk is full.")

    given = bench.file("a.txt", "x")
    monkeypatch.setattr(Artifacts, "put", full)
    assert bench.run("j", UPPER, {"data": given}).status == JobStatus.FAILED
    error = bench.step("j", "upper").error
    assert error is not None and error["code"] == "storage_full" and error["exit_code"] == 0


ALL_CORES = Resources(cpus=0)
BUILDS = """touch $MAFUNZO_STEP_FOLDER/built
while [ -e $MAFUNZO_STEP_FOLDER/without-cores ]; do sleep 0.02; done
"""


def with_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submit the job `own`, whose step has an environment that nobody has built yet."""
    monkeypatch.setattr("mafunzo.control.pipelines.observer.is_ready", lambda folder: False)
    monkeypatch.setattr("mafunzo.control.pipelines.attempt.setup_command", lambda *_: BUILDS)
    bench.submit("own", shell("own", "echo ran > ${{outputs.out}}", resources=ALL_CORES))
    step = bench.step("own", "own")
    spec = replace(step.spec, runtime=Environment("e", "1", packages=("x",)), timeout_s=60.0)
    bench.records.steps.update(replace(step, spec=spec))


def test_an_environment_is_built_without_cores_and_the_step_begins_when_it_gets_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = bench.root / "gate"
    bench.submit("busy", replace(HOLD, resources=ALL_CORES), {"gate": str(gate)})
    bench.until(lambda: bench.statuses("busy") == {"hold": "running"})
    with_environment(bench, monkeypatch)
    bench.until(lambda: bench.step("own", "own").attempt and (bench.folder("own", "own") / "built").exists())
    bench.tick()
    cpus = {lease.owner.rpartition("/")[2]: lease.resources.cpus for lease in bench.leases.list()}
    assert cpus == {"hold": bench.capacity.cpus, "own": 0}
    bench.submit("later", shell("later", "echo x > ${{outputs.out}}", resources=ALL_CORES))
    before = bench.step("own", "own").started_at
    gate.touch()
    assert bench.finish("busy", "own", "later").status == JobStatus.COMPLETED
    assert bench.read("own", "own") == "ran\n" and bench.step("own", "own").started_at > before
    assert bench.step("later", "later").started_at > bench.step("own", "own").started_at, "who was first has them first"
    assert bench.leases.list() == [] and not (bench.folder("own", "own") / "built").exists()


def test_a_step_that_waits_for_its_cores_isn_t_out_of_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = bench.root / "gate"
    bench.submit("busy", replace(HOLD, resources=ALL_CORES), {"gate": str(gate)})
    bench.until(lambda: bench.statuses("busy") == {"hold": "running"})
    with_environment(bench, monkeypatch)
    bench.until(lambda: bench.step("own", "own").attempt and (bench.folder("own", "own") / "built").exists())
    step = bench.step("own", "own")
    bench.records.steps.update(replace(step, started_at=datetime.now(UTC) - timedelta(hours=1), started_uptime=None))
    bench.tick()
    gate.touch()
    assert bench.finish("own").status == JobStatus.COMPLETED


# Out of memory

HUNGRY = shell("finetune", "echo ${MAFUNZO_MEMORY_BUDGET_MB:-none} >> ${{inputs.seen}}; kill -9 $$; : ${{outputs.out}}")
FRUGAL = shell(
    "finetune", "[ $MAFUNZO_MEMORY_BUDGET_MB ] || kill -9 $$; echo $MAFUNZO_MEMORY_BUDGET_MB > ${{outputs.out}}"
)


@pytest.fixture
def out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes that SIGKILL ends; only the kernel's word for it, that memory ran out, is ours."""
    inner = local._exit_record

    def marked(folder: Path) -> ExitRecord | None:
        record = inner(folder)
        return record and replace(record, is_out_of_memory=record.exit_code == 137, peak_memory_mb=1000.0)

    monkeypatch.setattr(local, "_exit_record", marked)


@pytest.mark.usefixtures("out_of_memory")
def test_training_that_the_system_ended_for_memory_goes_on_with_less(bench: Bench) -> None:
    bench.submit("j", FRUGAL, is_trusted=True)
    until(lambda: bench.scheduler.tick() is not None and bench.step("j", "finetune").memory_budget_mb)
    step = bench.step("j", "finetune")
    assert step.reason.startswith(
        "attempt 1 was ended by the system because memory ran out, at 1,000 MB; it goes on from"
    )
    bench.skip_backoff()
    assert bench.finish("j").status is JobStatus.COMPLETED
    step = bench.step("j", "finetune")
    assert (step.attempt, step.memory_budget_mb, bench.read("j", "finetune")) == (2, 750, "750\n")


@pytest.mark.usefixtures("out_of_memory")
def test_training_that_memory_never_suffices_for_fails_after_a_few_attempts(bench: Bench) -> None:
    seen = bench.root / "seen"
    bench.submit("j", HUNGRY, {"seen": str(seen)}, is_trusted=True)
    until(lambda: bench.skip_backoff() or (bench.scheduler.tick() and False) or bench.step("j", "finetune").ended_at)
    error = bench.finish("j").error
    assert seen.read_text().split() == ["none", "750", "750", "750"]
    assert error is not None and "the system ended it 4 times because memory ran out" in error["message"]
    assert bench.step("j", "finetune").error["code"] == "out_of_memory"


@pytest.mark.usefixtures("out_of_memory")
def test_a_user_s_own_step_that_the_system_ended_for_memory_fails(bench: Bench) -> None:
    bench.run("j", FRUGAL)
    step = bench.step("j", "finetune")
    assert (step.attempt, step.error["code"], step.memory_budget_mb) == (1, "out_of_memory", 0)


def submit_placed(bench: Bench, compute: Compute) -> None:
    """Submit a job whose step is placed on a cluster; `compute` is what has that name by now."""
    bench.records.computes.put(compute)
    bench.submit("j", shell("one", "echo hi > ${{outputs.out}}"))
    (step,) = bench.records.steps.of("j")
    bench.records.steps.update(replace(step, spec=replace(step.spec, placement=Placement("lab"))))


def test_a_step_on_a_cluster_is_started_as_its_driver_which_alone_has_the_token(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def driver_command(address: str, placement: Placement, command: str, variables: Mapping[str, str]) -> list[str]:
        return ["bash", "-c", f"echo {address} {placement.compute} ${{#RAY_AUTH_TOKEN}}; {command}"]

    monkeypatch.setattr(performer, "driver_command", driver_command)
    keep_token(bench.home, "lab", "ab" * 16)
    submit_placed(bench, Compute("lab", "", address="10.0.0.1:6379"))
    assert bench.finish("j").status is JobStatus.COMPLETED
    assert bench.log("j", "one") == "10.0.0.1:6379 lab 32\n"
    assert bench.read("j", "one") == "hi\n"


def test_a_step_whose_cluster_was_replaced_meanwhile_is_failed_with_that(bench: Bench) -> None:
    submit_placed(bench, Compute("lab", "Standard_D2s_v3"))
    job = bench.finish("j")
    assert job.status is JobStatus.FAILED and job.error is not None
    assert "Compute 'lab' was a Ray cluster when the job was planned, and is none any more" in job.error["message"]
