"""Bytes that were damaged while they were stored: no step is spared for them, and none learns from them."""

import os
from pathlib import Path

import pytest

from mafunzo.entities.job import JobStatus
from tests.support.pipeline_bench import Bench, shell

UPPER = shell("upper", "tr a-z A-Z < ${{inputs.data}} > ${{outputs.out}}")


def blob_of(bench: Bench, artifact: str) -> Path:
    [file] = bench.artifacts.manifest(artifact)
    return bench.artifacts.blob_path(file.sha256)


def flip(blob: Path) -> None:
    blob.chmod(0o644)
    blob.write_bytes(bytes([blob.read_bytes()[0] ^ 1]) + blob.read_bytes()[1:])


@pytest.mark.parametrize(("damage", "reason"), [(flip, "are damaged"), (os.unlink, "are damaged")])
def test_a_step_whose_earlier_outputs_are_damaged_runs_again_and_mends_them(
    damage: object, reason: str, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    data = bench.file("a.txt", "hello\n")
    bench.run("first", UPPER, {"data": data})
    assert bench.run("second", UPPER, {"data": data}).status is JobStatus.COMPLETED
    assert bench.statuses("second") == {"upper": "cached"}
    stored = bench.step("first", "upper").outputs["out"]
    damage(blob_of(bench, stored))  # type: ignore[operator]
    assert bench.run("third", UPPER, {"data": data}).status is JobStatus.COMPLETED
    assert bench.statuses("third") == {"upper": "completed"}
    assert reason in bench.step("third", "upper").reason
    assert bench.artifacts.verify(stored) == [], "what is stored anew is whole again"
    assert bench.run("fourth", UPPER, {"data": data}).status is JobStatus.COMPLETED
    assert bench.statuses("fourth") == {"upper": "cached"}


def test_a_damaged_artifact_is_named(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    data = bench.file("a.txt", "hello\n")
    bench.run("first", UPPER, {"data": data})
    stored = bench.step("first", "upper").outputs["out"]
    flip(blob_of(bench, stored))
    bench.run("second", UPPER, {"data": data})
    assert f"Artifact {stored} of first/upper is damaged: out: its bytes were changed" in caplog.text


def test_a_step_learns_nothing_from_damaged_inputs(bench: Bench) -> None:
    data = bench.file("a.txt", "hello\n")
    flip(blob_of(bench, data.artifact))
    job = bench.run("first", UPPER, {"data": data})
    assert job.status is JobStatus.FAILED and job.error is not None
    assert (job.error["code"], list(job.error["faults"])) == ("artifact_corrupt", ["a.txt: its bytes were changed"])
