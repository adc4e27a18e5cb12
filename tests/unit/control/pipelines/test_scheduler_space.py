"""A disk that a step fills: the step fails, what it wrote is freed, and it isn't tried again."""

from collections.abc import Iterator

import pytest

from mafunzo.control.pipelines.scheduler import short_of_space
from mafunzo.control.store.space import FLOOR_BYTES, START_BYTES, Space
from mafunzo.entities.job import JobStatus, StepStatus
from tests.support.pipeline_bench import Bench, shell
from tests.support.waiting import until

FILL = shell("fill", "head -c 20000000 /dev/zero > ${{outputs.out}}; echo written; sleep 600")
OTHER = shell("other", "echo fine > ${{outputs.out}}")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return a list whose last number is what is free."""
    amounts = [START_BYTES]
    monkeypatch.setattr(Space, "free_bytes", lambda self: amounts[-1])
    yield amounts


@pytest.mark.parametrize(("end", "sign"), [("sleep 600", "log.txt"), ("exit 1", "exit.json")])
def test_a_step_that_fills_the_disk_fails_frees_what_it_wrote_and_is_not_tried_again(
    end: str, sign: str, bench: Bench, free: list[int]
) -> None:
    fill = shell("fill", f"head -c 20000000 /dev/zero > ${{{{outputs.out}}}}; echo written; {end}")
    bench.submit("full", {"fill": fill}, bindings={"fill": {"retries": 3}})
    bench.until(lambda: bench.step("full", "fill").status is StepStatus.RUNNING)
    until(lambda: "written" in bench.log("full", "fill") and (bench.folder("full", "fill") / sign).exists())
    free.append(FLOOR_BYTES - 1)
    job = bench.finish("full")
    assert job.status is JobStatus.FAILED and job.error is not None
    assert job.error["code"] == "storage_full"
    assert "Step 'fill' has filled the disk" in job.error["message"] and "it had written 19 MB" in job.error["message"]
    assert bench.step("full", "fill").attempt == 1
    assert not (bench.folder("full", "fill") / "outputs").exists()
    assert bench.leases.list() == [] and bench.leftovers() == []


def test_a_step_that_wrote_little_is_left_alone(bench: Bench, free: list[int]) -> None:
    bench.submit(
        "small",
        shell("small", "echo holding; until [ -e ${{inputs.gate}} ]; do sleep 0.02; done; echo > ${{outputs.out}}"),
        {"gate": str(bench.root / "gate")},
    )
    bench.until(lambda: "holding" in bench.log("small", "small"))
    free.append(FLOOR_BYTES - 1)
    bench.tick()
    bench.tick()
    (bench.root / "gate").touch()
    assert bench.finish("small").status is JobStatus.COMPLETED


def test_no_step_starts_on_a_disk_that_is_nearly_full_and_it_says_so(bench: Bench, free: list[int]) -> None:
    free.append(START_BYTES - 1)
    bench.submit("j", OTHER)
    bench.tick()
    bench.tick()
    assert bench.statuses("j") == {"other": "waiting"}
    assert bench.step("j", "other").reason == "waits for disk space: fewer than 512 MB are free"
    assert not bench.scheduler.tick(), "what is written down already isn't written again"
    free.append(START_BYTES)
    assert bench.finish("j").status is JobStatus.COMPLETED


def test_where_there_is_room_every_action_is_done() -> None:
    assert short_of_space([], START_BYTES) == []
