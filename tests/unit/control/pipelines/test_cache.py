"""What makes two steps the same, and what is said of their difference."""

from dataclasses import replace
from typing import Any

import pytest

from mafunzo.control.pipelines.cache import differences, ingredients, installed_versions, key_of
from mafunzo.entities.job import ArtifactInput, Destination, LiteralInput, Resources, StepOutputInput, StepSpec

SPEC = StepSpec(
    name="finetune",
    component="finetune:1",
    code="sha256:c0de",
    command="train ${{inputs.data}}",
    inputs={
        "max_seq_length": LiteralInput(512),
        "data": ArtifactInput("sha256:da7a", "train.jsonl"),
        "prepared": StepOutputInput("prepare", "rows"),
    },
    outputs={"model": "custom_model"},
)
UPSTREAM = {"prepare": {"rows": "sha256:0123"}}
VERSIONS = {"python": "3.11.7", "torch": "2.13"}


def made(upstream: Any = UPSTREAM, versions: Any = VERSIONS, **changes: Any) -> Any:
    return ingredients(replace(SPEC, **changes), upstream, versions)


def inputs(**changes: Any) -> Any:
    return {"inputs": {**SPEC.inputs, **changes}}


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(made(name="train", component="train:2"), id="another name of step and component"),
        pytest.param(
            made(**inputs(data=ArtifactInput("sha256:da7a", "copy.jsonl"))), id="another name of the same bytes"
        ),
        pytest.param(made(**inputs(prepared=ArtifactInput("sha256:0123"))), id="the same bytes from elsewhere"),
        pytest.param(made(resources=Resources(cpus=8, memory_mb=100)), id="more cores and memory"),
        pytest.param(made(retries=3), id="retries"),
    ],
)
def test_what_does_not_decide_the_outputs_keeps_the_key(other: Any) -> None:
    assert key_of(other) == key_of(made())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        pytest.param(made(**inputs(max_seq_length=LiteralInput(1024))), "max_seq_length 512 -> 1024", id="a value"),
        pytest.param(made(**inputs(seed=LiteralInput(1))), "seed (none) -> 1", id="one more value"),
        pytest.param(made(**inputs(data=ArtifactInput("sha256:beef"))), "input data changed", id="a file"),
        pytest.param(made(upstream={"prepare": {"rows": "sha256:4567"}}), "input prepared changed", id="a step before"),
        pytest.param(made(**inputs(extra=ArtifactInput("sha256:beef"))), "input extra is new", id="one more file"),
        pytest.param(made(code="sha256:beef"), "code of finetune changed", id="code"),
        pytest.param(made(code_artifact="sha256:beef"), "code of finetune changed", id="a user's code"),
        pytest.param(made(command="train -v"), "command of finetune changed", id="command"),
        pytest.param(made(outputs={"model": "uri_folder"}), "outputs of finetune changed", id="outputs"),
        pytest.param(made(versions={**VERSIONS, "torch": "2.14"}), "torch 2.13 -> 2.14", id="a package"),
        pytest.param(made(environment={"MODE": "fast"}), "MODE (none) -> fast", id="an environment variable"),
        pytest.param(made(resources=Resources(processes=2)), "processes 1 -> 2", id="processes"),
        pytest.param(made(**inputs(max_seq_length=LiteralInput(True))), "max_seq_length 512 -> true", id="a boolean"),
    ],
)
def test_what_decides_the_outputs_changes_the_key_and_is_named(other: Any, said: str) -> None:
    assert key_of(other) != key_of(made())
    assert differences("finetune", made(), other) == [said]


def test_an_input_that_is_gone_is_named() -> None:
    less = made(inputs={name: value for name, value in SPEC.inputs.items() if name != "data"})
    assert differences("finetune", made(), less) == ["input data is no longer given"]


def test_several_differences_are_all_named() -> None:
    other = made(code="sha256:beef", **inputs(max_seq_length=LiteralInput(64), data=ArtifactInput("sha256:beef")))
    assert differences("finetune", made(), other) == [
        "max_seq_length 512 -> 64",
        "input data changed",
        "code of finetune changed",
    ]


def test_a_text_and_a_number_are_not_the_same() -> None:
    assert key_of(made(**inputs(max_seq_length=LiteralInput("512")))) != key_of(made())


def test_long_values_are_shortened() -> None:
    (told,) = differences("finetune", made(), made(**inputs(max_seq_length=LiteralInput("x" * 500))))
    assert len(told) < 100 and told.endswith("...")


def test_versions_name_python_and_what_is_installed() -> None:
    found = installed_versions()
    assert found["python"].startswith("3.") and "torch" in found


def test_the_name_that_a_path_gives_to_a_file_decides_its_content() -> None:
    def written_to(kind: str, path: str) -> Any:
        return made(outputs={"rows": kind}, destinations={"rows": Destination(kind, path=path)})

    csv, parquet = written_to("uri_file", "a/rows.csv"), written_to("uri_file", "a/rows.parquet")
    assert differences("split", csv, parquet) == ["outputs of split changed"]
    assert key_of(csv) == key_of(written_to("uri_file", "b/rows.csv"))
    assert key_of(written_to("uri_folder", "a")) == key_of(made(outputs={"rows": "uri_folder"}))
