"""What a person is told of a failure, and what is left of a folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.control.launcher.local import KEPT_FROM_CHILDREN, ExitRecord, last_lines
from mafunzo.control.pipelines.attempt import clean, collect, failure, failure_of, logged_values, prepare
from mafunzo.control.store.artifact import Artifacts
from mafunzo.entities.compute import Placement
from mafunzo.entities.job import ArtifactInput, Destination, LiteralInput, Resources, Step, StepSpec
from mafunzo.errors import StepFailed, StorageFull

SPEC = StepSpec(name="train", component="c:1", code="", command="run ${{outputs.out}}", outputs={"out": "uri_file"})
STEP = Step(job="j", spec=SPEC, attempt=1)


def ended(exit_code: int, is_out_of_memory: bool = False) -> ExitRecord:
    number = exit_code - 128 if exit_code > 128 else None
    return ExitRecord(exit_code, number, 1, 0.0, 0.0, 1.0, is_out_of_memory=is_out_of_memory)


def test_want_of_memory_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("step 3\n")
    told = failure(STEP, tmp_path, ended(137, is_out_of_memory=True), "")
    assert told["code"] == "out_of_memory" and told["signal"] == 9
    assert told["message"].startswith("Step 'train' was ended by the system because memory ran out; the last lines of")


def test_a_step_that_said_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.txt").touch()
    told = failure(STEP, tmp_path, ended(1), "")
    assert (
        told["message"] == f"Step 'train' ended with exit code 1; {tmp_path / 'log.txt'} is empty."
        and told["faults"] == []
    )


def test_a_step_that_never_began_has_no_log(tmp_path: Path) -> None:
    told = failure(STEP, tmp_path, None, "it needs 9 cores")
    assert (told["message"], told["log"]) == ("Step 'train': it needs 9 cores.", None)


def test_our_own_errors_keep_their_code_and_faults() -> None:
    assert failure_of(StorageFull("The disk is full.", ["a"]))["faults"] == ["a"]
    assert failure_of(StorageFull("The disk is full."))["code"] == "storage_full"
    assert failure_of(PermissionError("no"))["message"] == "PermissionError: no"


def test_the_last_lines_are_those_that_a_terminal_would_show(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"x" * 200_000 + b"\n" + b"".join(b"line %d\n\n" % n for n in range(20)) + b"10%\r20%\r30%\xff\n")
    told = last_lines(log)
    assert len(told) == 10 and told[0] == "line 11" and told[-1] == "30%\ufffd"


def test_what_a_component_made_read_only_is_deleted_all_the_same(tmp_path: Path) -> None:
    inner = tmp_path / "outputs" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "c").touch()
    for path in (inner / "c", inner, inner.parent):
        path.chmod(0o400)
    clean(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_outputs_of_the_wrong_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "out").mkdir(parents=True)
    with pytest.raises(StepFailed) as caught:
        collect(SPEC, tmp_path, Artifacts(tmp_path / "store"))
    assert caught.value.faults == (f"out is no file at {tmp_path / 'outputs' / 'out'}.",)


def test_a_file_that_goes_to_a_path_is_written_under_its_name_there(tmp_path: Path) -> None:
    spec = replace(SPEC, destinations={"out": Destination("uri_file", path="my/rows.csv")})
    artifacts = Artifacts(tmp_path / "store")
    ready = prepare(spec, tmp_path, {}, artifacts, Resources(), None, tmp_path / "environments")
    assert ready.command == f"run '{tmp_path}/outputs/out/rows.csv'"
    (tmp_path / "outputs" / "out" / "rows.csv").write_text("a,b")
    stored = artifacts.describe(collect(spec, tmp_path, artifacts)["out"])
    assert (stored.kind, [file.path for file in stored.files]) == ("file", ["rows.csv"])


def test_a_step_that_runs_on_other_machines_names_its_files_from_its_own_folder(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    (tmp_path / "rows.jsonl").write_text("{}")
    stored = ArtifactInput(artifacts.put(tmp_path / "rows.jsonl"))
    command = "run '${{inputs.rows}}' '${{outputs.out}}'"
    spec = replace(
        SPEC, command=command, inputs={"rows": stored}, placement=Placement("lab", 2), environment={"WORD": "x"}
    )
    (folder := tmp_path / "step").mkdir()
    ready = prepare(spec, folder, {}, artifacts, Resources(), None, tmp_path / "environments")
    assert ready.command == "run 'inputs/rows/rows.jsonl' 'outputs/out'"
    assert (folder / "inputs" / "rows" / "rows.jsonl").exists()
    assert (ready.directory, ready.variables) == (folder, {"WORD": "x"})


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        pytest.param(None, {"OMP_NUM_THREADS": "2"}, id="a machine without GPUs"),
        pytest.param((), {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}, id="a step without GPUs"),
        pytest.param((1, 3), {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "1,3"}, id="two GPUs"),
    ],
)
def test_a_process_sees_the_devices_and_cores_that_it_holds(
    tmp_path: Path, devices: tuple[int, ...] | None, expected: dict[str, str]
) -> None:
    held = Resources(cpus=4, processes=2)
    ready = prepare(SPEC, tmp_path, {}, Artifacts(tmp_path / "store"), held, devices, tmp_path / "environments")
    assert ready.environment == expected and ready.directory == tmp_path
    assert (ready.inputs, ready.outputs) == ({}, {"out": f"{tmp_path}/outputs/out"})
    assert ready.command == f"run '{tmp_path}/outputs/out'"


def test_what_is_written_to_outputs_and_logs_is_kept_whatever_the_code_has_there(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    for name in ("outputs", "logs"):
        (tmp_path / "src" / name).mkdir(parents=True)
        (tmp_path / "src" / name / "old.txt").write_text("old")
    code = artifacts.put(tmp_path / "src")
    spec = replace(SPEC, command="x", outputs={"default": "uri_folder"}, code_artifact=code)
    (folder := tmp_path / "step").mkdir()
    ready = prepare(spec, folder, {}, artifacts, Resources(), None, tmp_path)
    (ready.directory / "outputs" / "new.txt").write_text("new")
    (ready.directory / "logs" / "log.txt").write_text("log")
    kept = collect(spec, folder, artifacts)
    clean(folder)
    assert sorted(file.path for file in artifacts.manifest(kept["default"])) == ["new.txt", "old.txt"]
    assert sorted(path.name for path in (folder / "logs").iterdir()) == ["log.txt", "old.txt"]


@pytest.mark.parametrize(
    ("component", "is_trusted", "has_token"),
    [("import_model:1", True, True), ("finetune:1", True, False), ("import_model:1", False, False)],
)
def test_the_token_of_the_hub_reaches_the_step_that_fetches_models_only(
    component: str, is_trusted: bool, has_token: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    spec = replace(SPEC, component=component, is_trusted=is_trusted)
    ready = prepare(spec, tmp_path, {}, Artifacts(tmp_path / "store"), Resources(), None, tmp_path)
    assert ready.environment.get("HF_TOKEN") == ("hf_secret" if has_token else None)
    assert "HF_TOKEN" in KEPT_FROM_CHILDREN


def test_variables_take_the_values_of_inputs_and_outputs(tmp_path: Path) -> None:
    inputs = {"x": LiteralInput(5), "day": LiteralInput("a 'b'")}
    variables = {"X": "${{inputs.x}}", "Y": "d-${{ inputs.day }}-${{inputs.none}}", "OUT": "${{outputs.out}}"}
    spec = replace(SPEC, inputs=inputs, environment=variables)
    ready = prepare(spec, tmp_path, {}, Artifacts(tmp_path / "store"), Resources(), None, tmp_path)
    assert ready.environment["X"] == "5" and ready.environment["Y"] == "d-a 'b'-"
    assert ready.environment["OUT"] == ready.outputs["out"]


def test_logged_values_are_read_as_a_program_writes_them(tmp_path: Path) -> None:
    assert logged_values(tmp_path, "loss") == ()
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.5}\n{"step": 1, "other": 1}\nnot json\n[1]\n{"step": 2, "loss": "n/a"}\n')
    assert logged_values(tmp_path, "loss") == (2.5, None)
    with file.open("a") as growing:
        growing.write('{"loss": 1}\n{"loss": NaN}\n{"loss": 0')
    assert logged_values(tmp_path, "loss") == (2.5, None, 1, None)
