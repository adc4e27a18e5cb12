"""Azure's hello for each framework, in each curated environment that has it: built by pip, run, logged, registered, loaded.

Environments that have the same packages with this Python are one, and it runs once, by the name of the first. Each takes up to
2.6 GB, and is pruned before the next is built.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import command
from packaging.requirements import Requirement

from mafunzo import Workspace
from mafunzo.control.store.catalog import curated_environments

HELLO = Path(__file__).parent / "files" / "hello"
PROGRAMS = {"sklearn": "sklearn_hello.py", "lightgbm": "lightgbm_hello.py", "tensorflow": "tensorflow_hello.py"}
"""By what an environment's name begins with; all others are the environment that Mafunzo runs in, which has PyTorch."""


def distinct() -> list[str]:
    """Return the names of the environments, the first of those with the same packages."""
    names: dict[frozenset[str], str] = {}
    for environment in curated_environments():
        requirements = [Requirement(package) for package in environment.packages]
        packages = frozenset(
            f"{one.name}{one.specifier}" for one in requirements if one.marker is None or one.marker.evaluate()
        )
        names.setdefault(packages, environment.name.removeprefix("AzureML-"))
    return list(names.values())


@pytest.fixture(autouse=True)
def pruned(workspace: Workspace) -> Iterator[None]:
    """Delete what was built."""
    yield
    workspace.prune("0s", ["environments"], apply=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", distinct())
def test_the_frameworks_hello_runs(name: str, client: Any, wait: Any, workspace: Workspace) -> None:
    program, model = PROGRAMS.get(name.partition("-")[0], "pytorch_hello.py"), f"hello-{name}".replace(".", "-")
    job = command(
        code=str(HELLO),
        command=f"python {program} {model}",
        environment=f"azureml://registries/azureml/environments/{name}/labels/latest",
    )
    ended = wait(client.jobs.create_or_update(job).name)
    handle = workspace.jobs.get(ended.name)
    assert ended.status == "Completed", handle.logs("command")[-4000:]
    accuracies = [line["test_accuracy"] for line in handle.metrics()["command"] if "test_accuracy" in line]
    assert accuracies and accuracies[0] > 0.8
    assert client.models.get(model, version="1").type == "mlflow_model"
