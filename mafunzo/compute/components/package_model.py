"""The packaging step: the tuned model as an MLflow model folder that loads where Mafunzo isn't installed."""

if __name__ == "__main__":  # before anything else imports transformers
    from mafunzo.compute.model.quick_start import import_networks

    import_networks()

import json
import logging
import platform
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils.logging import disable_progress_bar

from mafunzo.compute.components import mlflow_loader, model_card
from mafunzo.compute.components.command import Arguments, run
from mafunzo.compute.model.folder import (
    LICENCE_FILES,
    TOKENIZER_FILES,
    copy_files,
    read_facts,
    read_json,
    sha256,
    weights_sha256,
    write_facts,
)
from mafunzo.compute.model.loading import check_folder, load_network, save_network
from mafunzo.compute.model.lora import CONFIG_FILE as ADAPTER_CONFIG
from mafunzo.compute.model.lora import WEIGHTS_FILE as ADAPTER_WEIGHTS
from mafunzo.errors import InvalidFile

logger = logging.getLogger(__name__)

PACKAGES = ("mlflow-skinny", "torch", "transformers", "tokenizers", "safetensors", "jinja2", "numpy", "pandas")
ADAPTER_PACKAGES = ("peft", "accelerate")
LICENCE_TEXTS = {
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0.txt",
    "mit": "https://opensource.org/license/mit",
}
# MLflow's own notation of types; all columns are optional because a row has either `messages` or Azure ML's `input_data`.
SIGNATURE = {
    "inputs": [
        {"type": "array", "items": {"type": "any"}, "name": "messages", "required": False},
        {"type": "any", "name": "tools", "required": False},
        {"type": "any", "name": "input_data", "required": False},
        {"type": "any", "name": "params", "required": False},
    ],
    "outputs": [{"type": "string", "required": True}],
    "params": [
        {"name": "max_new_tokens", "type": "long", "default": mlflow_loader.DEFAULT_MAX_NEW_TOKENS, "shape": None},
        {"name": "temperature", "type": "double", "default": None, "shape": None},
        {"name": "top_p", "type": "double", "default": None, "shape": None},
        {"name": "top_k", "type": "long", "default": None, "shape": None},
        {"name": "do_sample", "type": "boolean", "default": None, "shape": None},
        {"name": "seed", "type": "long", "default": None, "shape": None},
    ],
}


@dataclass(frozen=True)
class PackageModelArguments:
    """The package_model step's parameters, each under its own name."""

    trust_remote_code: bool
    merge_lora_weights: bool
    name: str | None


def package_model(arguments: Arguments) -> None:
    """Write the MLflow model folder of a tuned model."""
    disable_progress_bar()
    values, base, tuned = PackageModelArguments(**arguments.values), arguments.path("model"), arguments.path("tuned")
    prepared, evaluation = arguments.paths["prepared"], arguments.paths["evaluation"]
    kind = "full"
    if (tuned / ADAPTER_CONFIG).exists():
        kind = "merged" if values.merge_lora_weights else "adapter"
    base_facts = read_facts(base)
    if not base_facts:
        raise InvalidFile(f"{base} has no mafunzo_model.json: pass the output of import_model as --model.")
    name = values.name or f"{base_facts['name']}-tuned"
    reference = _find(evaluation, "serving_reference.json")
    out = arguments.outputs["mlflow_model_folder"]
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "data" / ("adapter" if kind == "adapter" else "model")
    if kind == "adapter":
        copy_files(tuned, (ADAPTER_CONFIG, ADAPTER_WEIGHTS), weights)
    else:
        _write_network(base, tuned, kind == "merged", _serving_dtype(reference), values.trust_remote_code, weights)
    copy_files(base, ("generation_config.json",), weights)
    copy_files(tuned if (tuned / "tokenizer_config.json").exists() else base, TOKENIZER_FILES, weights)
    facts = {
        "name": name,
        "version": "",
        "source": f"tuned:{name}",
        "kind": kind,
        "licence": base_facts.get("licence", ""),
        "card": base_facts.get("card") or {},
        "weights_sha256": weights_sha256(weights),
        "end_of_turn": base_facts.get("end_of_turn"),
        "base": base_facts,
    }
    write_facts(out, facts)
    _write_licence(base, facts, out)
    card = model_card.render(
        name=name,
        kind=kind,
        licence=str(facts["licence"]),
        weights_sha256=str(facts["weights_sha256"]),
        base=base_facts,
        report=_json(prepared, "report.json"),
        data_sha256={file.name: sha256(file) for file in prepared.glob("raw/*.jsonl")} if prepared else {},
        configuration={k: v for k, v in _json(tuned, "finetune_args.json").items() if k != "base"},
        results=_json(tuned, "all_results.json"),
        metrics=_json(evaluation, "metrics.json"),
        pictures=_copy_reports(tuned, prepared, evaluation, reference, out),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    _write_mlflow(out, facts, kind == "adapter", values.trust_remote_code)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    logger.info("Packaged %s (%s, %.1f MB)", name, kind, size / 1e6)


def _write_network(
    base: Path, tuned: Path, is_lora: bool, dtype: torch.dtype | None, trusts_code: bool, folder: Path
) -> None:
    """Write a Hugging Face folder in the dtype in which it was evaluated."""
    network = load_network(
        base if is_lora else tuned,
        tuned if is_lora else None,
        merge=is_lora,
        dtype=dtype,
        trust_remote_code=trusts_code,
    )
    save_network(network, folder)
    if trusts_code and check_folder(base, trusts_code).get("auto_map"):
        copy_files(base, ("*.py",), folder)


def _serving_dtype(reference: Path | None) -> torch.dtype | None:
    """Return the dtype in which the tuned model was evaluated; None keeps that of the weights."""
    if reference is None:
        return None
    name = str(read_json(reference)["dtype"])
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise InvalidFile(f"{reference}: dtype is '{name}', expected one of float32, bfloat16, float16.")
    return dtype


def _write_licence(base: Path, facts: Mapping[str, Any], out: Path) -> None:
    copy_files(base, LICENCE_FILES, out)
    if not any(out.glob("LICEN[SC]E*")):
        licence = str(facts["licence"]) or "unknown"
        url = (facts["card"] or {}).get("licence_url") or LICENCE_TEXTS.get(licence) or "the page of the base model"
        base_name = f"{facts['base']['name']} ({facts['base']['source']})"
        text = (
            f"{facts['name']} is derived from {base_name}, whose licence is: {licence}.\n"
            f"The licence of the base holds for these weights as well. Its text: {url}\n"
        )
        (out / "LICENSE").write_text(text, encoding="utf-8")


def _copy_reports(
    tuned: Path, prepared: Path | None, evaluation: Path | None, reference: Path | None, out: Path
) -> tuple[str, ...]:
    """Copy what the card shows and what proves serving; returns the pictures' names."""
    if reference is not None:
        shutil.copyfile(reference, out / reference.name)
    if (metrics := _find(evaluation, "metrics.json")) is not None:
        shutil.copyfile(metrics, out / "metrics.json")
    candidates = [_find(tuned, "loss.png"), _find(prepared, "lengths.png")]
    pictures = [picture for picture in candidates if picture is not None]
    pictures += sorted(evaluation.rglob("*.png")) if evaluation else []
    names = {}
    for picture in pictures:
        name = picture.name if picture.name not in names else f"evaluation-{picture.name}"
        names[name] = shutil.copyfile(picture, out / name)
    return tuple(names)


def _write_mlflow(out: Path, facts: Mapping[str, Any], is_adapter: bool, trusts_code: bool) -> None:
    """Write MLmodel and the three files that say which packages are needed; no clock, so that equal models are equal bytes."""
    code = out / "code"
    code.mkdir(exist_ok=True)
    shutil.copyfile(mlflow_loader.__file__, code / "mlflow_loader.py")
    packages = PACKAGES + (ADAPTER_PACKAGES if is_adapter else ())
    requirements = [f"{package}=={version(package).partition('+')[0]}" for package in packages]
    (out / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    python, base = platform.python_version(), facts["base"]
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
    }
    _write_yaml(out / "conda.yaml", conda)
    virtualenv = {
        "python": python,
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": ["-r requirements.txt"],
    }
    _write_yaml(out / "python_env.yaml", virtualenv)
    body = {
        "flavors": {
            "python_function": {
                "loader_module": "mlflow_loader",
                "code": "code",
                "config": {"base": "", "device": "auto", "trust_remote_code": trusts_code},
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "python_version": python,
            }
        },
        "metadata": {
            "name": facts["name"],
            "kind": facts["kind"],
            "licence": facts["licence"],
            "is_finetuned_model": True,
            "base_model_name": base["name"],
            "base_model_source": base["source"],
            "base_weights_sha256": base["weights_sha256"],
        },
        "mlflow_version": version("mlflow-skinny"),
        "model_uuid": uuid.UUID(hex=str(facts["weights_sha256"])[:32]).hex,
        "signature": {key: json.dumps(value) for key, value in SIGNATURE.items()},
    }
    _write_yaml(out / "MLmodel", body)


def _write_yaml(path: Path, body: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(body), sort_keys=False), encoding="utf-8")


def _find(folder: Path | None, name: str) -> Path | None:
    """Return the file of that name in a folder or below it, the uppermost one; None if there is none."""
    matches = sorted(folder.rglob(name), key=lambda file: len(file.parts)) if folder else []
    return matches[0] if matches else None


def _json(folder: Path | None, name: str) -> dict[str, Any]:
    path = _find(folder, name)
    return read_json(path) if path else {}


if __name__ == "__main__":
    run(__file__, package_model)
