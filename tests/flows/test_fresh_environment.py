"""A packaged model in a new virtual environment that has nothing but the model's own requirements.txt."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter

pytestmark = pytest.mark.slow
HELLO = [{"role": "user", "content": "Hello, how are you?"}]

PYFUNC = """
import importlib.util, json, sys
import mlflow.pyfunc
assert importlib.util.find_spec("mafunzo") is None
model = mlflow.pyfunc.load_model(sys.argv[1])
data, params = json.loads(sys.argv[2]), {"max_new_tokens": 8}
replies = [model.predict({"messages": data}, params=params), model.predict([{"messages": data}] * 2, params=params)]
azure = {"input_data": {"input_string": [data], "parameters": {"max_new_tokens": 8, "do_sample": False}}, "params": {}}
print(json.dumps([*replies, model.predict(azure)]))
"""

TRANSFORMERS = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
network = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
if len(sys.argv) > 3:
    from peft import PeftModel
    network = PeftModel.from_pretrained(network, sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[-1] if len(sys.argv) > 3 else sys.argv[1])
ids = tokenizer.apply_chat_template(
    json.loads(sys.argv[2]), add_generation_prompt=True, return_tensors="pt", return_dict=True
)
out = network.generate(**ids, max_new_tokens=8, do_sample=False)
print(json.dumps(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)))
"""


def component(name: str, **arguments: object) -> None:
    """Run a step by hand, as from a shell."""
    argv = [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
    subprocess.run([sys.executable, "-m", f"mafunzo.compute.components.{name}", *argv], check=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base, an adapter for it, and both kinds of package of them."""
    root = tmp_path_factory.mktemp("models")
    (root / "card").mkdir()
    card = files("mafunzo.catalog") / "models" / "tiny-llama.yml"
    (root / "card" / "card.yml").write_text(card.read_text(encoding="utf-8"))
    component("import_model", mlflow_model_path=root / "card", model=root / "base")
    network = load_network(root / "base")
    add_adapter(network, AdapterConfig(r=4, alpha=8))
    torch.manual_seed(3)
    for _, layer in adapters(network):
        torch.nn.init.normal_(layer.lora_B, std=0.5)
    save_adapter(network, AdapterConfig(r=4, alpha=8), root / "tuned")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(root / "base" / name, root / "tuned")
    for merge in ("true", "false"):
        component(
            "package_model",
            model=root / "base",
            tuned=root / "tuned",
            merge_lora_weights=merge,
            mlflow_model_folder=root / f"merged-{merge}",
        )
    return root


@pytest.fixture(scope="module")
def fresh(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment with the adapter's requirements, which are the merged model's and peft."""
    merged, adapter = (
        set((models / f"merged-{m}" / "requirements.txt").read_text().split()) for m in ("true", "false")
    )
    assert {line.partition("==")[0] for line in adapter - merged} == {"peft", "accelerate"}
    assert merged < adapter
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    requirements = models / "merged-false" / "requirements.txt"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-r", requirements],
        check=True,
        cwd=folder,
        env=outside(),
    )
    return python


def outside(**more: str) -> dict[str, str]:
    """Return this process's environment without what would lead to our own packages."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "MAFUNZO_"))
    }
    return {**kept, "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", **more}


def told(python: Path, program: str, *arguments: object, **environment: str) -> Any:
    argv = [str(python), "-c", program, *map(str, arguments)]
    done = subprocess.run(
        argv, capture_output=True, text=True, cwd=python.parent, env=outside(**environment), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_merged_model_answers_with_stock_mlflow_and_loads_with_plain_transformers(models: Path, fresh: Path) -> None:
    folder, asked = models / "merged-true", json.dumps(HELLO)
    one, two, azure = told(fresh, PYFUNC, folder, asked)
    assert len(one) == len(azure) == 1
    assert two == one * 2
    assert azure == one
    assert told(fresh, TRANSFORMERS, folder / "data" / "model", asked) == one[0]


def test_an_adapter_answers_with_stock_mlflow_and_loads_with_plain_peft(models: Path, fresh: Path) -> None:
    folder, asked = models / "merged-false", json.dumps(HELLO)
    one, two, azure = told(fresh, PYFUNC, folder, asked, MAFUNZO_BASE_MODEL=str(models / "base"))
    assert two == one * 2
    assert azure == one
    assert told(fresh, TRANSFORMERS, models / "base", asked, folder / "data" / "adapter") == one[0]
    assert told(fresh, TRANSFORMERS, models / "base", asked) != one[0]
