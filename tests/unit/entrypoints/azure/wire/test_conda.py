"""Conda files of environments: what is asked for, and what is wrong with them."""

from typing import Any

import pytest

from mafunzo.entities.environment import Environment
from mafunzo.entrypoints.azure.wire.conda import CondaFile, conda_from_text, conda_text
from mafunzo.entrypoints.azure.wire.environment import environment_from_body
from mafunzo.errors import InvalidParameter

IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"


def sent(**given: Any) -> dict[str, Any]:
    """Return the body that the SDK sends for an environment of its own."""
    from azure.ai.ml.entities import Environment as SdkEnvironment

    body: dict[str, Any] = SdkEnvironment(name="mine", version="3", **given)._to_rest_object().as_dict()
    return body


def read(*dependencies: Any, **more: Any) -> Environment:
    """Read an environment of the SDK's with these dependencies."""
    conda = {"name": "x", "channels": ["conda-forge"], "dependencies": list(dependencies), **more}
    return environment_from_body("mine", "3", sent(image=IMAGE, conda_file=conda))


def text_of(conda_file: str) -> dict[str, Any]:
    return {"properties": {"image": IMAGE, "condaFile": conda_file}}


def test_the_pip_part_python_and_conda_s_own_packages_are_told_apart() -> None:
    found = read(
        *("python=3.10", "pip=23.0", "conda-forge::numpy=1.21.2"),
        {"pip": ["scikit-learn~=1.5", "mlflow== 2.4.1", "inference-schema[numpy-support]==1.3.0"]},
        variables={"LEVEL": "3", "EMPTY": ""},
    )
    assert found == Environment(
        name="mine",
        version="3",
        packages=("scikit-learn~=1.5", "mlflow== 2.4.1", "inference-schema[numpy-support]==1.3.0"),
        python="3.10",
        variables={"LEVEL": "3", "EMPTY": ""},
        image=IMAGE,
        conda_packages=("conda-forge::numpy=1.21.2",),
    )


@pytest.mark.parametrize(
    ("entry", "python", "allowed", "refused"),
    [
        ("python=3.10", "3.10", (3, 10), (3, 11)),
        ("python==3.8.5", "3.8.5", (3, 8), (3, 9)),
        ("python 3.9", "3.9", (3, 9), (3, 10)),
        ("python=3.10.4=h12debd9_0", "3.10.4", (3, 10), (3, 4)),
        ("python=3.10.*", "3.10.*", (3, 10), (3, 1)),
        ("defaults::python = 3", "3", (3, 13), (2, 7)),
        ("python>=3.9,<3.12", ">=3.9,<3.12", (3, 11), (3, 12)),
        ("Python >3.8, !=3.10, <= 3.11", ">3.8, !=3.10, <= 3.11", (3, 11), (3, 10)),
    ],
)
def test_a_python_is_asked_for_in_conda_s_ways(
    entry: str, python: str, allowed: tuple[int, int], refused: tuple[int, int]
) -> None:
    found = read(entry)
    assert found.python == python and found.conda_packages == ()
    assert found.allows_python(allowed) and not found.allows_python(refused)


def test_any_python_is_allowed_where_none_is_named() -> None:
    assert read("python", "pip").allows_python((3, 14))


@pytest.mark.parametrize(
    "line",
    [
        "torch @ https://example.org/torch-2.0-py3-none-any.whl",
        "https://example.org/tiny-1.0.tar.gz",
        "git+https://example.org/tiny.git@v1#egg=tiny",
        "numpy; python_version < '3.12'",
        "--extra-index-url https://example.org/simple",
        "-f /srv/wheels",
        "--find-links=https://example.org/wheels",
        "--pre",
    ],
)
def test_what_pip_can_find_anywhere_is_taken_as_written(line: str) -> None:
    assert read({"pip": [line]}).packages == (line,)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-r requirements.txt", "reads files that aren't there when the environment is built"),
        ("-rrequirements.txt", "reads files that aren't there"),
        ("--constraint=limits.txt", "reads files that aren't there"),
        ("-e .", "reads files that aren't there"),
        (".", "a local path, which isn't there"),
        ("./dist/tiny.whl", "a local path"),
        ("/home/ann/tiny", "a local path"),
        ("tiny-1.0-py3-none-any.whl", "a local path"),
        ("tiny @ file:///home/ann/tiny", "a local path"),
        ("C:\\tiny", "a local path"),
        ("--find-links wheels", "Name an absolute one, or a URL"),
        ("--no-cache-dir", "expected a requirement, or one of -f, --find-links"),
        ("numpy scipy", "expected a requirement such as numpy>=1.26"),
        ("numpy\nscipy", "expected one requirement an entry"),
        (["numpy"], "pip has a list"),
    ],
)
def test_a_line_that_pip_could_not_install_here_is_refused_with_the_reason(line: Any, told: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        read({"pip": [line]})
    assert len(refused.value.faults) == 1 and told in refused.value.faults[0]
    assert refused.value.param == "condaFile"


def test_all_that_is_wrong_with_a_conda_file_is_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as refused:
        read("python=three", "a[b", {"npm": ["left-pad"]}, {"pip": "numpy"}, ["x"], variables={"a-b": "1"})
    assert refused.value.message == "The conda file of environment 'mine' can't be used."
    assert refused.value.faults == (
        "dependencies has 'a[b', expected a package such as python=3.10, or the list pip.",
        "dependencies has a mapping of npm, expected a package such as python=3.10, or the list pip.",
        "pip is 'numpy', expected a list.",
        "dependencies has a list, expected a package such as python=3.10, or the list pip.",
        "variables has a-b: '1', expected a variable's name and a text.",
        "python is 'three', expected python=3.10 or conditions such as python>=3.9,<3.12.",
    )


@pytest.mark.parametrize(
    ("conda_file", "told"),
    [
        ("dependencies: [", "it isn't YAML: while parsing a flow node"),
        ("[" * 5000, "it isn't YAML: maximum recursion depth"),
        ("!!python/object:os.system {a: b}", "dependencies is missing; there are: a."),
        ("numpy", "it is 'numpy', expected a mapping with the key dependencies."),
        ("dependencies: numpy", "dependencies is 'numpy', expected a list."),
        ("dependancies: [numpy]", "dependencies is missing; there are: dependancies."),
        ("{dependencies: [], variables: [1]}", "variables is a list, expected a mapping."),
        ("dependencies: &a [*a]", "recursive"),
    ],
)
def test_a_file_of_another_shape_is_refused(conda_file: str, told: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        environment_from_body("mine", "3", text_of(conda_file))
    assert told in str(refused.value)


@pytest.mark.parametrize("conda_file", ["", "# nothing", "dependencies:", "{dependencies: [pip], prefix: /x}"])
def test_a_file_may_ask_for_nothing(conda_file: str) -> None:
    assert environment_from_body("mine", "3", text_of(conda_file)).packages == ()


def test_a_file_that_is_written_reads_the_same() -> None:
    conda = CondaFile(">=3.9,<3.12", ("gcc=12",), ("numpy",), {"A": "1"})
    again, faults = conda_from_text(conda_text(conda, "x"))
    assert (again, list(faults)) == (conda, [])
