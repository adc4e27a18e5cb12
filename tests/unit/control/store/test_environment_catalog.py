"""Azure's curated environments: every name that scripts use has one meaning, which can be built."""

from importlib.resources import files

import pytest

from mafunzo.control.store.catalog import curated_environment, curated_environments, environment_cards
from mafunzo.entities.environment import Environment

OURS = ()


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("AzureML-sklearn-1.5", "scikit-learn~=1.5.0"),
        ("sklearn-1.5", "scikit-learn~=1.5.0"),
        ("AzureML-sklearn-1.5-ubuntu22.04-py311-cpu", "scikit-learn~=1.5.0"),
        ("AzureML-sklearn-1.1-ubuntu20.04-py38-cpu", "scikit-learn~=1.1.3; python_version < '3.12'"),
        ("AzureML-sklearn-1.0-ubuntu20.04-py38-cpu", "scikit-learn~=1.0.2; python_version < '3.11'"),
        ("AzureML-sklearn-0.24-ubuntu18.04-py37-cpu", "scikit-learn~=0.24.2; python_version < '3.10'"),
        ("AzureML-sklearn-0.24.1-ubuntu18.04-py37-cpu-inference", "scikit-learn~=0.24.2; python_version < '3.10'"),
        ("AzureML-lightgbm-3.3", "lightgbm~=4.6"),
        ("AzureML-lightgbm-3.2-ubuntu18.04-py37-cpu", "lightgbm~=3.2.1"),
        ("AzureML-tensorflow-2.4-ubuntu18.04-py37-cuda11-gpu", "tensorflow~=2.15.0; python_version < '3.12'"),
        ("AzureML-TensorFlow-2.1-CPU", "tensorflow~=2.15.0; python_version < '3.12'"),
        ("AzureML-tensorflow-2.12-cuda11", "tensorflow~=2.15.0; python_version < '3.12'"),
        ("AzureML-tensorflow-2.16-ubuntu22.04-py311-cuda121-gpu", "tensorflow~=2.16.1"),
    ],
)
def test_a_curated_name_stands_for_packages(name: str, first: str) -> None:
    found = curated_environment(name)
    assert found is not None and found.name == name and found.packages[0] == first


@pytest.mark.parametrize(
    "name",
    [
        "AzureML-acpt-pytorch-2.2-cuda12.1",
        "acpt-pytorch-2.8-cuda12.6",
        "AzureML-ACPT-pytorch-1.13-py38-cuda11.7-gpu",
        "AzureML-pytorch-1.10-ubuntu18.04-py38-cuda11-gpu",
        "AzureML-PyTorch-1.6-GPU",
        "acft-hf-nlp-gpu",
        "AzureML-Minimal",
        "AzureML-minimal-ubuntu18.04-py37-cpu-inference",
        "local",
    ],
)
def test_a_curated_name_stands_for_the_environment_that_mafunzo_runs_in(name: str) -> None:
    found = curated_environment(name)
    assert found is not None and found.packages == OURS and found.allows_python((3, 11))


@pytest.mark.parametrize("name", ["mine", "AzureML-sklearn-9.9", "AzureML-", "sklearn", "my-sklearn-1.5", ""])
def test_any_other_name_stands_for_nothing(name: str) -> None:
    assert curated_environment(name) is None


@pytest.mark.parametrize("environment", curated_environments(), ids=lambda environment: environment.name)
def test_every_one_is_found_by_one_card(environment: Environment) -> None:
    assert curated_environment(environment.name) == environment


def test_every_card_has_a_name_of_its_own() -> None:
    names = [card.name.lower() for card in environment_cards()]
    assert len(names) == len(set(names)) == len(list((files("mafunzo.catalog") / "environments").iterdir()))
