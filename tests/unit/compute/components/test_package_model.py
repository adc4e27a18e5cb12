"""The packaging step: its folder loads with stock mlflow, transformers and peft, and tells where it comes from."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from mafunzo.compute.components import import_model, package_model
from mafunzo.compute.components.command import load_interface, parse
from mafunzo.compute.model.folder import weights_sha256
from mafunzo.compute.model.loading import load_network
from mafunzo.errors import InvalidFile

HELLO = [{"role": "user", "content": "Hello, how are you?"}]
Package = Callable[..., Path]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, card_folder: Any, adapter_of: Any) -> Path:
    """Return a folder with what the steps before this one wrote: model, tuned, full, prepared, evaluation."""
    root = tmp_path_factory.mktemp("work")
    interface = load_interface(Path(import_model.__file__).with_suffix(".yml"))
    os.environ["MAFUNZO_CACHE"] = str(root / "cache")
    card = card_folder(root, "tiny-llama")
    import_model.import_model(parse(interface, ["--mlflow_model_path", str(card), "--model", str(root / "model")]))
    del os.environ["MAFUNZO_CACHE"]
    adapter_of(root / "model", root / "tuned")
    (root / "tuned" / "finetune_args.json").write_text(json.dumps({"learning_rate": 0.002, "base": {"name": "x"}}))
    (root / "tuned" / "all_results.json").write_text(json.dumps({"train_loss": 2.25, "train_runtime": 3.5}))
    (root / "tuned" / "loss.png").write_bytes(b"a picture")
    load_network(root / "model", root / "tuned", merge=True).save_pretrained(root / "full")
    (root / "prepared" / "raw").mkdir(parents=True)
    (root / "prepared" / "raw" / "train.jsonl").write_text('{"messages": []}\n')
    split = {"rows_read": 1234, "rows_kept": 1200, "dropped": [{}] * 34, "tokens": 160000, "assistant_tokens": 80000}
    (root / "prepared" / "report.json").write_text(json.dumps({"splits": {"train": split}}))
    (root / "evaluation" / "evaluationResult").mkdir(parents=True)
    estimate = {"value": 2.5, "low": 2.25, "high": 2.75}
    loss = {
        "title": "loss",
        "rows": 100,
        "base": estimate,
        "tuned": estimate,
        "difference": estimate,
        "is_better": None,
    }
    metrics = {"comparisons": {"loss": loss}, "forgetting": {"kl": estimate, "prompts": 200}}
    (root / "evaluation" / "evaluationResult" / "metrics.json").write_text(json.dumps(metrics))
    (root / "evaluation" / "serving_reference.json").write_text(json.dumps({"dtype": "bfloat16", "rows": []}))
    return root


@pytest.fixture(scope="module")
def package(work: Path) -> Package:
    """Return a function that runs the step on `work`, once for each set of inputs."""
    interface = load_interface(Path(package_model.__file__).with_suffix(".yml"))
    folders: dict[str, Path] = {}

    def run(tuned: str = "tuned", **inputs: str) -> Path:
        key = f"{tuned}-{sorted(inputs.items())}"
        if key not in folders:
            folders[key] = work / f"out{len(folders)}"
            argv = [part for name in ("model", "prepared", "evaluation") for part in (f"--{name}", str(work / name))]
            argv += [part for name, value in inputs.items() for part in (f"--{name}", value)]
            argv += ["--tuned", str(work / tuned), "--mlflow_model_folder", str(folders[key])]
            package_model.package_model(parse(interface, argv))
        return folders[key]

    return run


@pytest.fixture(scope="module")
def merged_model(package: Package) -> Any:
    return mlflow.pyfunc.load_model(str(package()))


def greedy(network: Any, tokenizer: Any, messages: list[dict[str, Any]], count: int) -> str:
    """Return what plain transformers answers."""
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = network.generate(**ids, max_new_tokens=count, do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def test_the_folder_answers_as_plain_transformers_does(package: Package, merged_model: Any) -> None:
    folder = package() / "data" / "model"
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert network.dtype == torch.bfloat16
    expected = greedy(network, AutoTokenizer.from_pretrained(folder), HELLO, 12)
    assert merged_model.predict({"messages": HELLO}, params={"max_new_tokens": 12}) == [expected]


def test_merged_weights_are_those_that_the_adapter_gives_on_its_base(package: Package, work: Path) -> None:
    ids = torch.arange(20).reshape(1, 20)
    with torch.no_grad():
        expected = load_network(work / "model", work / "tuned", dtype=torch.float32)(ids).logits
        logits = AutoModelForCausalLM.from_pretrained(package() / "data" / "model", dtype=torch.float32)(ids).logits
        base = load_network(work / "model", dtype=torch.float32)(ids).logits
    assert (logits - expected).abs().max() < 0.02 < (base - expected).abs().max()


@pytest.mark.parametrize(
    ("data", "replies"),
    [
        pytest.param({"messages": HELLO}, 1, id="one conversation"),
        pytest.param([{"messages": HELLO}, {"messages": HELLO}], 2, id="a list of rows"),
        pytest.param(pd.DataFrame({"messages": [HELLO, HELLO]}), 2, id="a DataFrame"),
        pytest.param({"input_data": {"input_string": HELLO}, "params": {}}, 1, id="Azure ML, flat"),
        pytest.param({"input_data": {"input_string": [HELLO, HELLO, HELLO]}}, 3, id="Azure ML, nested"),
    ],
)
def test_every_shape_of_a_request_gives_one_reply_a_conversation(data: Any, replies: int, merged_model: Any) -> None:
    texts = merged_model.predict(data, params={"max_new_tokens": 5})
    assert len(texts) == replies
    assert len(set(texts)) == 1


def test_azures_parameters_beside_the_messages_win(merged_model: Any) -> None:
    body = {"input_data": {"input_string": HELLO, "parameters": {"max_new_tokens": 3}}}
    long = merged_model.predict({"messages": HELLO}, params={"max_new_tokens": 9})[0]
    assert long.startswith(merged_model.predict(body, params={"max_new_tokens": 9})[0])
    assert merged_model.predict(body)[0] != long


def test_sampling_with_a_seed_repeats_itself_and_differs_from_greedy(merged_model: Any) -> None:
    options = {"max_new_tokens": 12, "temperature": 1.5, "seed": 7}
    first = merged_model.predict({"messages": HELLO}, params=options)
    assert merged_model.predict({"messages": HELLO}, params=options) == first
    assert merged_model.predict({"messages": HELLO}, params={"max_new_tokens": 12}) != first


def test_a_stop_text_ends_the_reply_before_it(merged_model: Any) -> None:
    whole = merged_model.predict({"messages": HELLO}, params={"max_new_tokens": 12})[0]
    stop = whole[4:6]
    body = {"input_data": {"input_string": HELLO, "parameters": {"max_new_tokens": 12, "stop": stop}}}
    assert merged_model.predict(body) == [whole[: whole.index(stop)]]


def test_an_unknown_parameter_is_refused_by_its_name(merged_model: Any) -> None:
    body = {"input_data": {"input_string": HELLO, "parameters": {"temprature": 1}}}
    with pytest.raises(Exception, match="temprature: not a parameter"):
        merged_model.predict(body)


def test_a_request_without_messages_says_what_is_expected(merged_model: Any) -> None:
    with pytest.raises(Exception, match=r'No conversation was given\. Expected \{"messages"'):
        merged_model.predict(["Hello"])


def test_tools_and_developer_messages_reach_the_template_as_in_training(merged_model: Any) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {}}}
    call = {"type": "function", "id": "1", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call], "weight": 1},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    model = merged_model._model_impl
    text = model.tokenizer.apply_chat_template(model._template_messages(messages), tools=[tool], tokenize=False)
    assert "<|start_header_id|>system<|end_header_id|>\n\nBe brief." in text
    assert '"parameters": {"zone": "UTC"}' in text
    assert len(merged_model.predict({"messages": messages, "tools": [tool]}, params={"max_new_tokens": 2})) == 1


def test_the_signature_says_messages_in_and_text_out(merged_model: Any) -> None:
    signature = merged_model.metadata.signature
    assert signature.inputs.input_names()[0] == "messages"
    assert str(signature.outputs.inputs[0].type) == "DataType.string"
    assert "max_new_tokens" in [param.name for param in signature.params.params]


def test_every_pinned_package_is_the_one_that_is_installed(package: Package) -> None:
    lines = (package() / "requirements.txt").read_text().splitlines()
    assert f"torch=={torch.__version__.partition('+')[0]}" in lines
    assert all("==" in line and "+" not in line for line in lines)
    assert yaml.safe_load((package() / "conda.yaml").read_text())["dependencies"][-1] == {"pip": lines}


def test_the_same_inputs_give_the_same_bytes(package: Package, work: Path) -> None:
    again = package(trust_remote_code="false")
    first = {
        p.relative_to(package()): p.read_bytes() for p in package().rglob("*") if p.is_file() and p.suffix != ".pyc"
    }
    assert {
        p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file() and p.suffix != ".pyc"
    } == first


def test_the_folder_says_where_it_comes_from(package: Package, work: Path, facts: Any) -> None:
    provenance = facts(package(name="greeter"))
    assert (provenance["name"], provenance["kind"], provenance["licence"]) == ("greeter", "merged", "apache-2.0")
    assert provenance["base"]["source"] == "made:tiny-llama"
    assert provenance["base"]["weights_sha256"] == weights_sha256(work / "model")
    assert provenance["weights_sha256"] == weights_sha256(package(name="greeter") / "data" / "model")


def test_the_card_tells_data_configuration_metrics_and_curve(package: Package) -> None:
    text = (package() / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "apache-2.0"
    assert "| train | 1,234 | 1,200 | 34 | 160,000 | 80,000 | `" in text
    assert "| loss | 100 | 2.5 (2.25 to 2.75) | 2.5 (2.25 to 2.75) | 2.5 (2.25 to 2.75) | not shown |" in text
    assert "KL = 2.5 (2.25 to 2.75) nats" in text
    assert "| learning_rate | 0.002 |" in text
    assert "| train_loss | 2.25 |" in text
    assert "![loss](loss.png)" in text
    assert (package() / "loss.png").read_bytes() == b"a picture"
    assert (package() / "serving_reference.json").exists()


def test_the_licence_of_the_base_is_in_the_folder(package: Package) -> None:
    text = (package() / "LICENSE").read_text()
    assert "derived from tiny-llama (made:tiny-llama), whose licence is: apache-2.0" in text
    assert "https://www.apache.org/licenses/LICENSE-2.0.txt" in text


def test_an_adapter_is_stored_without_its_base_and_loads_with_peft(package: Package, work: Path) -> None:
    folder = package(merge_lora_weights="false")
    assert sum(f.stat().st_size for f in (folder / "data").rglob("*.safetensors")) < 100_000
    base = AutoModelForCausalLM.from_pretrained(work / "model")
    ids = torch.arange(20).reshape(1, 20)
    with torch.no_grad():
        logits = PeftModel.from_pretrained(base, str(folder / "data" / "adapter"))(ids).logits
        expected = load_network(work / "model", work / "tuned")(ids).logits
    assert np.allclose(logits.numpy(), expected.numpy(), atol=1e-5)


def test_an_adapter_answers_with_its_base_named_either_way(
    package: Package, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = package(merge_lora_weights="false")
    options = {"max_new_tokens": 8}
    by_config = mlflow.pyfunc.load_model(str(folder), model_config={"base": str(work / "model")})
    monkeypatch.setenv("MAFUNZO_BASE_MODEL", str(work / "model"))
    by_variable = mlflow.pyfunc.load_model(str(folder))
    assert by_variable.predict({"messages": HELLO}, params=options) == by_config.predict(
        {"messages": HELLO}, params=options
    )


def test_an_adapter_without_its_base_says_what_to_name(package: Package) -> None:
    with pytest.raises(
        ValueError, match=r"its base is tiny-llama 1 \(made:tiny-llama\). Name the base's folder in MAFUNZO_BASE"
    ):
        mlflow.pyfunc.load_model(str(package(merge_lora_weights="false")))


def test_an_adapter_on_another_base_is_refused(package: Package, work: Path) -> None:
    with pytest.raises(ValueError, match="has weights with the hash"):
        mlflow.pyfunc.load_model(str(package(merge_lora_weights="false")), model_config={"base": str(work / "full")})


def test_a_whole_tuned_model_is_packaged_as_it_is(package: Package, work: Path, facts: Any) -> None:
    shutil.copy(work / "model" / "chat_template.jinja", work / "full")
    folder = package(tuned="full")
    assert facts(folder)["kind"] == "full"
    assert len(mlflow.pyfunc.load_model(str(folder)).predict({"messages": HELLO}, params={"max_new_tokens": 2})) == 1


@pytest.mark.parametrize("merge", ["true", "false"])
def test_a_packaged_model_is_the_base_of_the_next_job(
    merge: str, package: Package, work: Path, tmp_path: Path, facts: Any
) -> None:
    folder = package(merge_lora_weights=merge)
    interface = load_interface(Path(import_model.__file__).with_suffix(".yml"))
    argv = [
        "--mlflow_model_path",
        str(folder),
        "--base_model_path",
        str(work / "model"),
        "--model",
        str(tmp_path / "next"),
    ]
    import_model.import_model(parse(interface, argv))
    ids = torch.arange(20).reshape(1, 20)
    with torch.no_grad():
        expected = load_network(work / "model", work / "tuned", dtype=torch.float32)(ids).logits
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "next", dtype=torch.float32)(ids).logits
    assert (logits - expected).abs().max() < 0.02
    assert facts(tmp_path / "next")["base"]["name"] == "tiny-llama"
    assert facts(tmp_path / "next")["card"]["context_length"] == 2048


def test_a_base_without_facts_is_named(work: Path, tmp_path: Path) -> None:
    interface = load_interface(Path(package_model.__file__).with_suffix(".yml"))
    argv = [
        "--model",
        str(work / "full"),
        "--tuned",
        str(work / "tuned"),
        "--mlflow_model_folder",
        str(tmp_path / "out"),
    ]
    with pytest.raises(InvalidFile, match=r"has no mafunzo_model.json: pass the output of import_model"):
        package_model.package_model(parse(interface, argv))
