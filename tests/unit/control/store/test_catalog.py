"""The catalogue: every card is well-formed, and what it names exists."""

import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from mafunzo.compute.components.command import load_interface
from mafunzo.control.store import catalog
from mafunzo.control.store.catalog import curated_environment, curated_environments, environment_cards
from mafunzo.entities.component import Component, parse_value
from mafunzo.entities.compute import Hardware
from mafunzo.entities.environment import Environment
from mafunzo.entities.model_card import ModelCard, model_card_from_dict
from mafunzo.entities.model_memory import FINETUNE, INFERENCE, is_held_by
from mafunzo.errors import InvalidFile, NotFound

CARDS = catalog.model_cards()
MODELS = files("mafunzo.catalog") / "models"
MULTIPLES = {"finetune_compute_allow_list": FINETUNE, "inference_compute_allow_list": INFERENCE}
each_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)


@pytest.fixture(scope="module")
def pipeline() -> Component:
    return load_interface(files("mafunzo.compute.components") / "chat_completion_pipeline.yml")


@each_card
def test_every_default_is_a_value_that_the_pipeline_accepts(card: ModelCard, pipeline: Component) -> None:
    for name, value in card.defaults.items():
        assert name in pipeline.inputs, f"{card.name} has a default for {name}, which isn't an input"
        assert parse_value(pipeline.inputs[name], value)[1] == ""


@each_card
def test_both_ends_of_every_range_are_values_that_the_pipeline_accepts(card: ModelCard, pipeline: Component) -> None:
    for name, (low, high) in card.ranges.items():
        assert name in pipeline.inputs, f"{card.name} has a range for {name}, which isn't an input"
        assert low < high
        assert parse_value(pipeline.inputs[name], low)[1] == ""
        assert parse_value(pipeline.inputs[name], high)[1] == ""


@each_card
def test_every_default_lies_in_its_range(card: ModelCard) -> None:
    for name, (low, high) in card.ranges.items():
        if name in card.defaults:
            assert low <= float(card.defaults[name]) <= high


@each_card
def test_every_machine_size_in_a_list_is_in_the_catalogue(card: ModelCard) -> None:
    known = {catalog.LOCAL, *(size.name for size in catalog.machine_sizes())}
    assert set(card.finetune_compute_allow_list) <= known
    assert set(card.inference_compute_allow_list) <= known
    assert catalog.LOCAL in card.finetune_compute_allow_list


@each_card
@pytest.mark.parametrize(("name", "multiple"), MULTIPLES.items())
def test_a_list_that_no_card_states_has_this_machine_and_every_size_that_holds_the_model(
    card: ModelCard, name: str, multiple: float
) -> None:
    held = {size.name for size in catalog.machine_sizes() if is_held_by(card.parameters, multiple, size)}
    assert name not in yaml.safe_load((MODELS / f"{card.name}.yml").read_text(encoding="utf-8"))
    assert getattr(card, name)[0] == catalog.LOCAL
    assert set(getattr(card, name)) == {catalog.LOCAL, *held}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        pytest.param(
            "finetune_compute_allow_list",
            "NC24ads_A100_v4 NC48ads_A100_v4 NC96ads_A100_v4 ND96asr_v4 ND96amsr_A100_v4 ND40rs_v2",
            id="fine-tuning",
        ),
        pytest.param(
            "inference_compute_allow_list",
            "NC6s_v3 NC12s_v3 NC24s_v3 ND40rs_v2 NC24ads_A100_v4 NC48ads_A100_v4 NC96ads_A100_v4 ND96asr_v4 ND96amsr_A100_v4",
            id="inference",
        ),
    ],
)
def test_the_sizes_that_azure_names_for_phi_3_mini_are_in_its_lists(name: str, sizes: str) -> None:
    listed = getattr(catalog.model_card("Phi-3-mini-4k-instruct"), name)
    assert {f"Standard_{size}" for size in sizes.split()} <= set(listed)


@pytest.fixture
def a_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the folder of a copy of the catalogue, which is the catalogue while a test runs."""
    shutil.copytree(str(files("mafunzo.catalog")), tmp_path / "catalog")
    monkeypatch.setattr(catalog, "files", lambda _: tmp_path / "catalog")
    catalog.model_cards.cache_clear()
    yield tmp_path / "catalog"
    catalog.model_cards.cache_clear()


def test_a_base_model_is_added_by_one_file(a_catalogue: Path) -> None:
    body = yaml.safe_load((MODELS / "Qwen2.5-3B-Instruct.yml").read_text(encoding="utf-8")) | {"name": "new-model"}
    (a_catalogue / "models" / "new-model.yml").write_text(yaml.safe_dump(body), encoding="utf-8")
    card = catalog.model_card("new-model")
    assert {"local", "Standard_NC4as_T4_v3"} <= set(card.finetune_compute_allow_list)
    assert card.finetune_compute_allow_list == catalog.model_card("Qwen2.5-3B-Instruct").finetune_compute_allow_list


def test_a_list_that_a_card_states_wins(a_catalogue: Path) -> None:
    path = a_catalogue / "models" / "tiny-llama.yml"
    text = path.read_text(encoding="utf-8") + "finetune_compute_allow_list: [local, Standard_D2s_v3]\n"
    path.write_text(text, encoding="utf-8")
    card = catalog.model_card("tiny-llama")
    assert card.finetune_compute_allow_list == ("local", "Standard_D2s_v3")
    assert "Standard_D12_v2" in card.inference_compute_allow_list


@each_card
def test_every_card_is_in_the_file_of_its_name_and_no_prompt_is_longer_than_its_context(card: ModelCard) -> None:
    assert (files("mafunzo.catalog") / "models" / f"{card.name}.yml").is_file()
    assert card.ranges["max_seq_length"][1] == card.context_length


def test_there_is_one_default_model_and_it_needs_no_hub() -> None:
    assert [card.name for card in CARDS if card.is_default] == ["SmolLM2-135M-Instruct"]
    assert CARDS[0].is_default and CARDS[0].source.kind == "pypi"


def test_a_model_is_found_by_name_or_repository_whatever_the_case() -> None:
    assert catalog.model_card("phi-3-mini-4k-instruct").version == "15"
    assert catalog.model_card("microsoft/Phi-3-mini-4k-instruct").name == "Phi-3-mini-4k-instruct"


def test_an_unknown_model_is_answered_with_near_names() -> None:
    with pytest.raises(NotFound, match=r"No base model is called 'SmolLM2-135M'. Did you mean SmolLM2-135M-Instruct"):
        catalog.model_card("SmolLM2-135M")


def test_a_version_that_is_not_there_is_named_beside_the_one_that_is() -> None:
    with pytest.raises(NotFound, match="has the version q4_1, not '7'"):
        catalog.model_card("SmolLM2-135M-Instruct", "7")


def test_every_machine_size_is_there_once_and_says_which_gpus_it_has() -> None:
    names = [size.name for size in catalog.machine_sizes()]
    assert len(names) == len({name.lower() for name in names}) == 616
    for size in catalog.machine_sizes():
        assert (size.gpus > 0) == (size.gpu_name != "") == (size.gpu_memory_gb > 0)


def test_this_machine_is_the_size_called_local() -> None:
    here = Hardware(cpus=2, memory_mb=23552)
    assert catalog.machine_sizes(here)[0] == catalog.machine_size("local", here)
    assert catalog.machine_size("local", here).memory_gb == 23.0


def test_a_size_is_found_whatever_the_case_and_an_unknown_one_gets_near_names() -> None:
    assert catalog.machine_size("STANDARD_NC4AS_T4_V3").gpu_name == "T4"
    with pytest.raises(NotFound, match="Did you mean Standard_NC24s_v3"):
        catalog.machine_size("Standard_NC24sv3")


def test_a_card_with_an_unknown_key_and_a_wrong_value_is_refused_with_both_faults() -> None:
    path = files("mafunzo.catalog") / "models" / "tiny-llama.yml"
    body = yaml.safe_load(path.read_text(encoding="utf-8")) | {"licnce": "mit", "parameters": 0}
    with pytest.raises(InvalidFile) as caught:
        model_card_from_dict(body, "mine.yml")
    assert len(caught.value.faults) == 2
    assert "licnce" in str(caught.value)
    assert "parameters" in str(caught.value)


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


@pytest.mark.parametrize(
    ("name", "cpus", "memory_gb", "gpus"),
    [
        ("Standard_D2_v2", 2, 7, 0),
        ("Standard_D12", 4, 28, 0),
        ("Standard_E64s_v3", 64, 432, 0),
        ("Standard_DS15_v2", 20, 140, 0),
        ("Standard_NV6", 6, 56, 1),
        ("Standard_B2ms", 2, 8, 0),
        ("STANDARD_D8ADS_V5", 8, 32, 0),
        ("Standard_NC6s_v2", 6, 112, 1),
        ("Standard_M128ms", 128, 3892, 0),
        ("Standard_HB120rs_v3", 120, 448, 0),
    ],
)
def test_the_sizes_of_azures_families_are_known(name: str, cpus: int, memory_gb: float, gpus: int) -> None:
    size = catalog.machine_size(name)
    assert (size.cpus, size.memory_gb, size.gpus) == (cpus, memory_gb, gpus)


def test_a_part_of_a_gpu_has_a_part_of_its_memory() -> None:
    parts = [catalog.machine_size(f"Standard_NV{cpus}ads_A10_v5").gpu_memory_gb for cpus in (6, 12, 18, 36)]
    assert parts == [4, 8, 12, 24]


def test_a_size_that_is_not_known_leads_to_this_machine() -> None:
    with pytest.raises(NotFound, match="`local` is this machine, whatever it has; `mafunzo compute sizes` shows all"):
        catalog.machine_size("Standard_Q9")


@pytest.mark.parametrize("name", ["AzureML-sklearn-1.5", "AzureML-sklearn-0.24", "AzureML-lightgbm-3.3"])
def test_what_mlflow_stores_models_of_scikit_learn_with_is_in_its_environments(name: str) -> None:
    environment = catalog.curated_environment(name)
    assert environment is not None and any(package.startswith("skops") for package in environment.packages)
