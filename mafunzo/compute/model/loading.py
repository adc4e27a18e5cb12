"""Model loading and saving: the one place where a base and an adapter, applied or merged, become a network.

Only safetensors are read: a pickle runs whatever code its author put in. The folder's code needs `trust_remote_code`.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from mafunzo.compute.model.lora import CONFIG_FILE, load_adapter, merge_adapter
from mafunzo.errors import InvalidFile, UnsafeModel

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5")


def save_network(network: PreTrainedModel, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a network as `model.safetensors` (or shards of it), config.json and generation_config.json.

    weights: its state dict, if not that of now.
    """
    # transformers imports DeepSpeed on the way, which warns where it has to find out by itself what it runs on
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    network.save_pretrained(folder, state_dict=None if weights is None else dict(weights))


def load_network(
    base: Path,
    adapter: Path | None = None,
    merge: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    attention: str | None = None,
    prepared: Callable[[PreTrainedModel], None] | None = None,
) -> PreTrainedModel:
    """Return the network of the Hugging Face folder `base`, in eval mode.

    adapter: an adapter folder (peft's format), put on the base's layers, or added into their weights if `merge`.
    dtype: None keeps the dtype that the weights are stored in. attention: a name of transformers' attention interface.
    prepared: changes the network once it is made, without numbers, and before they are read (weights that become parts).
    Raises `UnsafeModel` for pickled weights, or for code without `trust_remote_code`; `InvalidFile` for unusable files.
    """
    config = check_folder(base, trust_remote_code)
    disable_progress_bar()
    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    try:
        loader = AutoModelForCausalLM if prepared is None else _class_of(base, trust_remote_code, prepared)
        network, info = loader.from_pretrained(
            str(base),
            dtype=dtype or "auto",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **({"trust_remote_code": trust_remote_code} if prepared is None else {}),
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InvalidFile(f"{base}: transformers can't load this {config.get('model_type')} model: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise InvalidFile(f"{base}: weights are missing and would start at random.", missing)
    network = network.to(device)
    if adapter is not None:
        load_adapter(network, adapter)
        if merge:
            merge_adapter(network)
    network.eval()
    assert isinstance(network, PreTrainedModel)
    return network


def _class_of(base: Path, trust_remote_code: bool, prepared: Callable[[PreTrainedModel], None]) -> Any:
    """Return the class of a folder's network, whose networks are changed as they are made."""
    config = AutoConfig.from_pretrained(str(base), local_files_only=True, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        own: Any = type(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code))

    def made(network: PreTrainedModel, *arguments: Any, **options: Any) -> None:
        own.__init__(network, *arguments, **options)
        network.__class__ = own
        prepared(network)

    return type(own.__name__, (own,), {"__init__": made, "__module__": own.__module__})


def exact_length(config: Any) -> int | None:
    """Return up to which length positions don't depend on the longest sequence of a batch, or None without such a limit.

    Rotary embeddings that change their frequencies once a sequence is long (longrope, dynamic) do so for the whole batch.
    """
    rope = rope_parameters(config)
    if rope.get("rope_type") not in ("longrope", "dynamic"):
        return None
    original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(original or config.max_position_embeddings)


def rope_parameters(config: Any) -> Mapping[str, Any]:
    """Return what a configuration says of its rotary embeddings."""
    return getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}


def check_folder(folder: Path, trust_remote_code: bool = False) -> dict[str, Any]:
    """Return the `config.json` of a Hugging Face folder that can be loaded safely, without loading it.

    Raises `UnsafeModel` if its weights are pickles or its architecture is code in the folder, `InvalidFile` if it has no
    configuration or no weights.
    """
    config_path = folder / "config.json"
    if not config_path.exists():
        if (folder / CONFIG_FILE).exists():
            raise InvalidFile(f"{folder} holds an adapter without its base: name the base, and this as its adapter.")
        raise InvalidFile(f"{folder} has no config.json: it isn't a Hugging Face model folder.")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidFile(f"{config_path} isn't JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidFile(f"{config_path} isn't a JSON object.")
    _check_weights(folder)
    _check_code(folder, config, trust_remote_code)
    return config


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise UnsafeModel(
            f"{folder} has its weights in {', '.join(pickles[:3])}, not in safetensors. Loading such a file can run any "
            "code that its author put in. Get the model's safetensors version, or convert it where you trust it."
        )
    raise InvalidFile(f"{folder} has no *.safetensors weights.")


def _check_code(folder: Path, config: dict[str, Any], trust_remote_code: bool) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return
    if not config.get("auto_map"):
        raise InvalidFile(f"{folder}: model_type is {model_type!r}, which isn't a chat model that transformers knows.")
    if not trust_remote_code:
        raise UnsafeModel(
            f"{folder}: the architecture {model_type!r} is Python code in the model's folder. Read it, then pass "
            "--trust_remote_code true to run it."
        )
