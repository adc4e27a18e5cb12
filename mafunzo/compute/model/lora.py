"""LoRA adapters on the linear layers of a network: which layers get one (lora_layer.py), and their files in peft's format."""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mafunzo.compute.model.lora_layer import PLAIN_START, Factors, LoraLinear
from mafunzo.entities.parameters.target_modules import Modules, TargetModules, by_pattern
from mafunzo.errors import Faults, InvalidFile, NotSupported, UnsafeModel
from mafunzo.tracking.atomic_json import write_json

logger = logging.getLogger(__name__)

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_WEIGHT_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB]\.weight|magnitude_vector)$")
_START = ".start"
"""What the names of an adapter's tensors at its start end with, in the place of `.weight`."""
_MAGNITUDE = "magnitude_vector"
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts (`init_lora_weights`) after which peft saves an adapter of other weights than the base's."""

# What peft can write and these layers don't compute: key of adapter_config.json -> the value that means "not used".
_UNUSED = {
    "bias": "none",
    "fan_in_fan_out": False,
    "layer_replication": None,
    "lora_bias": False,
    "modules_to_save": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_qalora": False,
}
_NEWER = ("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config")
"""The same of newer peft, which an adapter's file names only where they are used."""


@dataclass(frozen=True)
class AdapterConfig:
    """The shape of an adapter.

    r: rank. alpha: the product is scaled by `alpha / r` (by `alpha / sqrt(r)` if `use_rslora`).
    dropout: share of the adapter's input that is zeroed in training.
    targets: the layers that get one, all linear layers except the head by default, and ranks and alphas of theirs alone.
    start: how it begins, as peft's `init_lora_weights` names it. use_dora: whether it has a magnitude of each row. base: what
    the adapter was trained on, for people.
    """

    r: int = 8
    alpha: float = 128
    dropout: float = 0.0
    targets: TargetModules = field(default_factory=TargetModules)
    use_rslora: bool = False
    start: str = PLAIN_START
    use_dora: bool = False
    base: str | None = None

    @property
    def scaling(self) -> float:
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def of_layer(self, name: str) -> "AdapterConfig":
        """Return the shape of one layer's adapter."""
        rank = by_pattern(self.targets.ranks, name, self.r)
        return replace(self, r=int(rank), alpha=by_pattern(self.targets.alphas, name, self.alpha))


class LinearShape(Protocol):
    """A layer that multiplies by a matrix of out x in."""

    in_features: int
    out_features: int


def add_adapter(network: nn.Module, config: AdapterConfig) -> list[str]:
    """Freeze `network` and add a trainable LoRA adapter to its target layers, in place; returns the layers' names.

    Where all linear layers are meant, weights that no adapter reaches are logged. Raises `InvalidParameter` if a target names
    no linear layer, or a rank is more than a decomposed weight has.
    """
    names = target_names(network, config.targets)
    if not config.targets.chosen and (shares := unreached_shares(network)):
        parts = ", ".join(f"{name} ({share:.0%} of the weights)" for name, share in shares.items())
        logger.warning(
            "No adapter reaches %s: these are no linear layers, as the experts of a mixture that share one tensor. They stay "
            "as they are; apply_lora false trains them.",
            parts,
        )
    layers = {name: network.get_submodule(name) for name in names}
    if config.start.startswith("pissa"):
        _require_ranks(layers, config)
        logger.info("Decomposes the weights of %d layers (%s)", len(layers), config.start)
    network.requires_grad_(False)
    for name, layer in layers.items():
        assert isinstance(layer, nn.Linear)
        own = config.of_layer(name)
        _replace(network, name, LoraLinear(layer, own.r, own.scaling, own.dropout, own.start, own.use_dora))
    return names


def _require_ranks(layers: Mapping[str, Any], config: AdapterConfig) -> None:
    """Raise `InvalidParameter` for ranks that are more than a weight's singular values."""
    faults = Faults()
    for name, layer in layers.items():
        most, rank = min(layer.in_features, layer.out_features), config.of_layer(name).r
        if rank > most:
            faults.add(f"{name} has {most} singular values, and its rank is {rank}. Lower lora_r, or set rank_pattern.")
    faults.require_none(f"init_lora_weights {config.start} can't start from the weights.")


def target_names(network: nn.Module, targets: TargetModules | None = None) -> list[str]:
    """Return the linear layers that get an adapter by name, all but the head by default; raises what `add_adapter` does."""
    targets = targets or TargetModules()
    linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    head = next((name for name, module in linears.items() if module is _head(network)), "")
    if not any(name != head for name in linears):
        raise NotSupported(f"{type(network).__name__} has no linear layers that LoRA can adapt: set apply_lora false.")
    weights = [name for name, _ in network.named_parameters()]
    faults = Faults()
    faults.add(*targets.faults(list(linears), head, bool(head) and _is_head_tied(network), others=weights))
    faults.require_none("No adapter can be put on the network.")
    return targets.select(list(linears), head)


def unreached_shares(network: nn.Module) -> dict[str, float]:
    """Return the matrices that are no linear layer's, embedding's or head's, by their names without numbers of layers.

    Each with its share of all weights; those below a hundredth (a mixture's router) are left out.
    """
    modules = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    reached = {id(weight) for module in modules for weight in module.parameters(recurse=False)}
    total = sum(weight.numel() for weight in network.parameters())
    sizes: dict[str, int] = {}
    for name, weight in network.named_parameters():
        if weight.dim() > 1 and id(weight) not in reached:
            kind = re.sub(r"^.*\.\d+\.", "", name)
            sizes[kind] = sizes.get(kind, 0) + weight.numel()
    return {kind: size / total for kind, size in sizes.items() if size >= total / 100}


def adapters(network: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield the layers that carry an adapter, by name."""
    for name, module in network.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def is_at_start(network: nn.Module) -> bool:
    """Return whether no layer's adapter adds anything yet."""
    return all(layer.is_at_start for _, layer in adapters(network))


def adapter_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's weights under peft's names, sharing memory with the network; what is subtracted ends on `.start`."""
    tensors = {}
    for name, layer in adapters(network):
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach()
        if layer.start_A is not None and layer.start_B is not None:
            tensors[f"{_PREFIX}{name}.lora_A{_START}"] = layer.start_A
            tensors[f"{_PREFIX}{name}.lora_B{_START}"] = layer.start_B
        if layer.lora_magnitude is not None:
            tensors[f"{_PREFIX}{name}.lora_magnitude_vector"] = layer.lora_magnitude.detach()
    return tensors


def read_tensors(folder: Path, network: nn.Module) -> dict[str, Tensor]:
    """Return the weights that `save_adapter` wrote of the adapter of a network like this, as `adapter_tensors` has them."""
    tensors: dict[str, Tensor] = load_file(folder / WEIGHTS_FILE)
    if not any(layer.start_A is not None for _, layer in adapters(network)):
        return tensors
    halves = {}
    for name, tensor in tensors.items():
        is_a = ".lora_A." in name
        factor, start = tensor.chunk(2, dim=0 if is_a else 1)
        halves[name] = factor
        halves[name.removesuffix(".weight") + _START] = start if is_a else -start
    return halves


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return factors with what is subtracted behind them: a plain adapter of twice the rank."""
    joined = {name: tensor for name, tensor in tensors.items() if not name.endswith(_START)}
    for name, factor in joined.items():
        start = tensors.get(name.removesuffix(".weight") + _START)
        if start is not None:
            is_a = ".lora_A." in name
            joined[name] = torch.cat([factor, start]) if is_a else torch.cat([factor, -start], dim=1)
    return joined


def save_adapter(
    network: nn.Module, config: AdapterConfig, folder: Path, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` into `folder`, as `peft` reads them.

    weights: the adapter's, as `adapter_tensors` names them, if not those of now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights or adapter_tensors(network)
    has_start = any(name.endswith(_START) for name in tensors)
    files = {name: tensor.cpu().contiguous() for name, tensor in _joined(tensors).items()}
    save_file(files, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    saved = _doubled(config) if has_start else config
    body = {
        **_UNUSED,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "auto_mapping": None,
        "base_model_name_or_path": saved.base,
        "revision": None,
        "inference_mode": True,
        "init_lora_weights": True,
        "r": saved.r,
        "lora_alpha": _number(saved.alpha),
        "lora_dropout": saved.dropout,
        "target_modules": _shortest(network, [name for name, _ in adapters(network)]),
        "rank_pattern": dict(saved.targets.ranks),
        "alpha_pattern": {key: _number(alpha) for key, alpha in saved.targets.alphas.items()},
        "use_rslora": saved.use_rslora,
        "use_dora": saved.use_dora,
    }
    write_json(folder / CONFIG_FILE, body, indent=2, sort_keys=True)


def _doubled(config: AdapterConfig) -> AdapterConfig:
    """Return the shape of twice the ranks with the same scaling."""
    factor = math.sqrt(2) if config.use_rslora else 2
    ranks = {key: 2 * rank for key, rank in config.targets.ranks.items()}
    alphas = {key: factor * alpha for key, alpha in config.targets.alphas.items()}
    targets = replace(config.targets, ranks=ranks, alphas=alphas)
    return replace(config, r=2 * config.r, alpha=factor * config.alpha, targets=targets)


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def load_adapter(network: nn.Module, folder: Path) -> AdapterConfig:
    """Load the LoRA adapter of `folder` (ours or peft's) onto `network`, in place.

    Raises `UnsafeModel` for pickled weights, `NotSupported` for a variant that these layers don't compute, and
    `InvalidFile` for an adapter that doesn't fit the network, naming every layer.
    """
    linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    config, factors = read_factors(folder, linears, type(network).__name__)
    network.requires_grad_(False)
    for name, layer_factors in factors.items():
        layer = LoraLinear(
            linears[name], layer_factors.rank, layer_factors.scaling, config.dropout, None, config.use_dora
        )
        with torch.no_grad():
            layer.lora_A.copy_(layer_factors.a)
            layer.lora_B.copy_(layer_factors.b)
            if layer.lora_magnitude is not None and layer_factors.magnitude is not None:
                layer.lora_magnitude.copy_(layer_factors.magnitude)
        layer.train(network.training)
        _replace(network, name, layer)
    return config


def read_factors(
    folder: Path, linears: Mapping[str, "LinearShape"], network: str
) -> tuple[AdapterConfig, dict[str, Factors]]:
    """Return what the adapter of `folder` adds to each of its layers, by their names; `linears` are the network's.

    Raises what `load_adapter` does; nothing is changed.
    """
    body = read_adapter_config(folder)
    config = _config(body)
    try:
        tensors = load_file(_weights(folder))
    except SafetensorError as error:
        raise InvalidFile(f"{folder / WEIGHTS_FILE} can't be read: {error}") from error
    faults = Faults()
    parts_by_name = _factors(tensors, faults)
    for name, parts in parts_by_name.items():
        faults.add(*_misfits(name, parts, linears.get(name), config.use_dora))
    if not faults and not parts_by_name:
        faults.add("it has no layers.")
    faults.require_none(f"{folder}: the adapter doesn't fit {network}.", InvalidFile)
    factors = {}
    for name, parts in parts_by_name.items():
        alpha = by_pattern(config.targets.alphas, name, config.alpha)
        scaling = replace(config, r=parts["A"].shape[0], alpha=alpha).scaling
        factors[name] = Factors(parts["A"], parts["B"], scaling, parts.get(_MAGNITUDE))
    return config, factors


def merge_adapter(network: nn.Module) -> None:
    """Merge every adapter into its base weight, in place."""
    for name, layer in list(adapters(network)):
        _replace(network, name, layer.merged())


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return `adapter_config.json`; raises `InvalidFile` if it is missing or isn't JSON."""
    path = folder / CONFIG_FILE
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidFile(f"{folder} has no {CONFIG_FILE}: it isn't an adapter folder.") from error
    except ValueError as error:
        raise InvalidFile(f"{path} isn't JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidFile(f"{path} isn't a JSON object.")
    return body


def _config(body: Mapping[str, Any]) -> AdapterConfig:
    faults = Faults()
    if body.get("peft_type") != "LORA":
        faults.add(f"peft_type is {body.get('peft_type')!r}, expected 'LORA'.")
    faults.add(*(f"{key} is {body[key]!r}." for key, unused in _UNUSED.items() if (body.get(key) or unused) != unused))
    faults.add(*(f"{key} is {body[key]!r}." for key in _NEWER if body.get(key)))
    start = str(body.get("init_lora_weights")).lower()
    if start.startswith(_CHANGED_BASES):
        faults.add(
            f"init_lora_weights is '{start}': it was trained beside other weights than the base's. Save it with peft's "
            "path_initial_model_for_weight_conversion, which makes it a plain one."
        )
    faults.require_none("The adapter uses what only peft computes: merge it with peft first.", NotSupported)
    targets = body.get("target_modules") or ()
    chosen = Modules(pattern=targets) if isinstance(targets, str) else Modules(tuple(targets))
    return AdapterConfig(
        r=int(body.get("r", 8)),
        alpha=float(body.get("lora_alpha", 8)),
        dropout=float(body.get("lora_dropout") or 0.0),
        targets=TargetModules(chosen, ranks=body.get("rank_pattern") or {}, alphas=body.get("alpha_pattern") or {}),
        use_rslora=bool(body.get("use_rslora", False)),
        use_dora=bool(body.get("use_dora", False)),
        base=body.get("base_model_name_or_path"),
    )


def _weights(folder: Path) -> Path:
    path = folder / WEIGHTS_FILE
    if not path.exists():
        if (folder / "adapter_model.bin").exists():
            raise UnsafeModel(
                f"{folder} has adapter_model.bin, a pickle: loading it can run code. Convert it to safetensors with peft."
            )
        raise InvalidFile(f"{folder} has no {WEIGHTS_FILE}.")
    return path


def _factors(tensors: Mapping[str, Tensor], faults: Faults) -> dict[str, dict[str, Tensor]]:
    """Return A, B and the magnitude by module name; a tensor that is none of them is a fault."""
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _WEIGHT_KEY.match(key)
        if match is None:
            faults.add(f"{key} isn't a LoRA weight of a linear layer.")
        else:
            factors.setdefault(match["module"], {})[match["part"].removesuffix(".weight")] = tensor
    return factors


def _misfits(name: str, parts: Mapping[str, Tensor], linear: LinearShape | None, has_magnitude: bool) -> list[str]:
    if linear is None:
        return [f"{name} isn't a linear layer of the network."]
    needed = {"A", "B", _MAGNITUDE} if has_magnitude else {"A", "B"}
    if set(parts) != needed:
        parts_text, needed_text = (", ".join(f"lora_{part}" for part in sorted(some)) for some in (parts, needed))
        return [f"{name} has only {parts_text}, expected {needed_text}."]
    rank = parts["A"].shape[0]
    shapes = {"A": (rank, linear.in_features), "B": (linear.out_features, rank), _MAGNITUDE: (linear.out_features,)}
    return [
        f"{name}.lora_{part} has the shape {tuple(tensor.shape)}, expected {shapes[part]}."
        for part, tensor in sorted(parts.items())
        if tuple(tensor.shape) != shapes[part]
    ]


def _shortest(network: nn.Module, names: list[str]) -> list[str]:
    """Return last parts of names if they mean exactly `names` in the network, else the whole names."""
    last_parts = sorted({name.rsplit(".", 1)[-1] for name in names})
    candidates = (name for name, m in network.named_modules() if isinstance(m, nn.Linear | LoraLinear))
    matches = {name for name in candidates if name.rsplit(".", 1)[-1] in last_parts and not name.endswith(".base")}
    return last_parts if matches == set(names) else sorted(names)


def _is_head_tied(network: nn.Module) -> bool:
    head, table = _head(network), network.get_input_embeddings()  # type: ignore[operator]
    return head is not None and table is not None and head.weight is table.weight


def _head(network: nn.Module) -> nn.Module | None:
    head = network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None  # type: ignore[operator]
    return head if isinstance(head, nn.Module) else None


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)
