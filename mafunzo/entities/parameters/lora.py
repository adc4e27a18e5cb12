"""The parameters of a LoRA adapter, under peft's names, and what must hold between them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mafunzo.entities.parameters.parameter import EVALUATE, FINETUNE, PACKAGE_MODEL, TRUTH, Parameter
from mafunzo.entities.parameters.target_modules import (
    ALL_LINEAR,
    OF_TARGETS,
    Modules,
    layer_numbers,
    pattern_values,
    split_names,
)

LORA = (
    Parameter(
        "apply_lora",
        "string",
        "Whether small adapters are trained beside the frozen weights (LoRA), instead of all weights.",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
    ),
    Parameter(
        "merge_lora_weights",
        "string",
        "Whether the packaged and served model has the adapter added into its weights; if not, it is the adapter with its "
        "base named by hash. pytorch_model_folder keeps the adapter either way.",
        default="true",
        enum=TRUTH,
        steps=(EVALUATE, PACKAGE_MODEL),
        effects={
            EVALUATE: "Whether an adapter is added into the base's weights first, as package_model does with the same input.",
            PACKAGE_MODEL: "Add an adapter into the base's weights; otherwise the folder holds the adapter alone, its base "
            "named by hash.",
        },
    ),
    Parameter(
        "lora_alpha",
        "integer",
        "The adapter's product is scaled by lora_alpha / lora_r, with use_rslora by lora_alpha / sqrt(lora_r).",
        default=128,
        minimum=1,
        steps=(FINETUNE,),
    ),
    Parameter(
        "lora_r",
        "integer",
        "The adapter's rank: more learns more, and costs memory and time.",
        default=8,
        minimum=1,
        steps=(FINETUNE,),
        aliases=("lora_rank", "lora_dim"),
    ),
    Parameter(
        "lora_dropout",
        "number",
        "The share of the adapter's input that is zeroed while training.",
        default=0.0,
        minimum=0.0,
        maximum=0.99,
        steps=(FINETUNE,),
    ),
    Parameter(
        "lora_target_modules",
        "string",
        "The linear layers that get an adapter: names or ends of them (q_proj, self_attn.q_proj), as a list or with commas "
        "between, or a regular expression of whole names; all but the head if left out, and for all or all-linear. Experts of "
        "a mixture (MoE) that share one tensor are no linear layers: they get no adapter, and the step says so.",
        steps=(FINETUNE,),
        aliases=("lora_target", "target_modules"),
        is_own=True,
    ),
    Parameter(
        "use_rslora",
        "string",
        "Whether the adapter's product is scaled by lora_alpha / sqrt(lora_r), so that a high rank learns as fast as a low one "
        "(rank-stabilized LoRA).",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
        aliases=("peft_use_rslora",),
        is_own=True,
    ),
    Parameter(
        "exclude_modules",
        "string",
        "Layers of lora_target_modules that get no adapter after all, named in the same ways.",
        steps=(FINETUNE,),
        aliases=("lora_exclude_modules",),
        is_own=True,
    ),
    Parameter(
        "layers_to_transform",
        "string",
        "The decoder layers whose linear layers get an adapter, by their numbers from 0, with ranges of which both ends count "
        "(0,1,8-11); all if left out. Not beside a regular expression, which says it itself.",
        steps=(FINETUNE,),
        aliases=("peft_layers_to_transform",),
        is_own=True,
    ),
    Parameter(
        "layers_pattern",
        "string",
        "What the list of decoder layers is called in the names of modules (layers, h), with layers_to_transform; the first "
        "list with a number behind it if left out.",
        steps=(FINETUNE,),
        aliases=("peft_layers_pattern",),
        is_own=True,
    ),
    Parameter(
        "rank_pattern",
        "string",
        "Ranks of some layers instead of lora_r: a JSON object of ends of names, or of regular expressions of them, with a "
        'rank for each. {"q_proj": 4, "layers.(0|1).mlp.up_proj": 16}; the first that fits counts.',
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "alpha_pattern",
        "string",
        "The same for lora_alpha.",
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "loraplus_lr_ratio",
        "number",
        "How many times learning_rate the adapter's second matrix (B) is trained with (LoRA+); 16 is its paper's. As one if "
        "left out.",
        above=0.0,
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "init_lora_weights",
        "string",
        "How an adapter starts: true (A uniform, B zero), gaussian (A normal, B zero), or from the weight's greatest singular "
        "values: pissa, or pissa_niter_N, which finds them fast in N rounds. What is saved is a plain adapter of the base in "
        "each case: of PiSSA one of twice the rank.",
        default="true",
        steps=(FINETUNE,),
        refused={
            "false": "an adapter whose both matrices are random changes the model before training; use true.",
            **dict.fromkeys(
                ("eva", "corda", "lora_ga"),
                "it needs gradients or activations of the data first, which aren't taken here.",
            ),
            **dict.fromkeys(("olora", "mica"), "this decomposition of the weights isn't computed here; use pissa."),
            "loftq": "it starts from a quantized base, and bases aren't quantized here.",
            "orthogonal": "this start isn't computed here; use true or gaussian.",
        },
        aliases=("peft_init_lora_weights",),
        is_own=True,
    ),
    Parameter(
        "use_dora",
        "string",
        "Whether the adapter trains the norm of each row of a weight apart from its direction (DoRA): learns more at low "
        "ranks, and takes more time and memory. Served merged, or by the torch engine.",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
        aliases=("peft_use_dora",),
        is_own=True,
    ),
)

_START = re.compile(r"true|gaussian|pissa|pissa_niter_[1-9]\d?")
_VARIANTS = (
    "lora_target_modules",
    "use_rslora",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "loraplus_lr_ratio",
    "init_lora_weights",
    "use_dora",
)
"""What is told of where there is no adapter that it could be about."""


def lora_faults(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the parameters of an adapter together; `values` has each as its type."""
    if not values["apply_lora"]:
        return [
            f"{name} is given while apply_lora is 'false'. Set apply_lora true, or leave it out."
            for name in _VARIANTS
            if values[name] not in (None, False, "true")
        ]
    return [*_target_faults(values), *_layer_faults(values), *_pattern_faults(values), *_start_faults(values)]


def without_faults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without those that have a fault, so that the others can be held against a network's layers."""
    broken = {fault.split(" ", 1)[0] for fault in lora_faults(values)}
    return {**values, **dict.fromkeys(name for name in OF_TARGETS if name in broken)}


def _target_faults(values: Mapping[str, Any]) -> Iterator[str]:
    for name in ("lora_target_modules", "exclude_modules"):
        text = values[name]
        modules = Modules.of(text)
        if text and not modules:
            yield f"{name} is '{text}', expected names with commas between."
        if modules.pattern and (reason := _broken(modules.pattern)):
            yield f"{name} is '{text}', which is neither names with commas between nor a regular expression: {reason}."
        if len(modules.names) > 1 and set(ALL_LINEAR) & set(modules.names):
            yield f"{name} is '{text}': all linear layers, and others beside them. Keep one of both."
    if set(Modules.of(values["exclude_modules"]).names) & set(ALL_LINEAR):
        yield f"exclude_modules is '{values['exclude_modules']}', which leaves no layer that gets an adapter."


def _layer_faults(values: Mapping[str, Any]) -> Iterator[str]:
    layers, lists = values["layers_to_transform"], values["layers_pattern"]
    try:
        if layers is not None and not layer_numbers(layers):
            yield f"layers_to_transform is '{layers}', expected numbers of layers, as 0,1,8-11."
    except ValueError as error:
        yield f"layers_to_transform is '{layers}', expected numbers of layers, as 0,1,8-11: {error}."
    if layers and Modules.of(values["lora_target_modules"]).pattern:
        yield (
            "layers_to_transform is given while lora_target_modules is a regular expression, which names the layers itself. "
            "Keep one of both."
        )
    if lists is not None and not layers:
        yield "layers_pattern is given without layers_to_transform, for which it counts. Give both, or leave it out."
    if lists is not None and not (
        split_names(lists) and all(re.fullmatch(r"[\w.]+", name) for name in split_names(lists))
    ):
        yield f"layers_pattern is '{lists}', expected names with commas between, as layers."


def _pattern_faults(values: Mapping[str, Any]) -> Iterator[str]:
    for name, noun in (("rank_pattern", "a whole number, 1 or more,"), ("alpha_pattern", "a number above 0")):
        text = values[name]
        expected = f"{name} is '{text}', expected a JSON object with {noun} for each name, as {{\"q_proj\": 16}}"
        try:
            numbers = pattern_values(text)
        except (ValueError, re.error) as error:
            yield f"{expected}: {error}."
            continue
        if text is not None and not numbers:
            yield f"{expected}: it names none."
        for key, number in numbers.items():
            if name == "rank_pattern" and number != int(number):
                yield f"{expected}: the value of '{key}' is {number}."


def _start_faults(values: Mapping[str, Any]) -> Iterator[str]:
    start = values["init_lora_weights"]
    if not _START.fullmatch(start):
        yield f"init_lora_weights is '{start}', expected true, gaussian, pissa, or pissa_niter_N with N from 1 to 99."
    starts_from_weights = start.startswith("pissa")
    if starts_from_weights and values["use_dora"]:
        yield f"init_lora_weights is '{start}' while use_dora is 'true': each starts from the weights by itself. Keep one."
    if not starts_from_weights and not values["use_dora"]:
        return
    what_needs, why = (
        (f"init_lora_weights is '{start}'", "it decomposes whole weights")
        if starts_from_weights
        else ("use_dora is 'true'", "it takes the norms of whole weights")
    )
    for is_sharded, what in (
        (values["data_parallel_strategy"] == "fsdp", "data_parallel_strategy is 'fsdp'"),
        (values["apply_deepspeed"] and values["deepspeed_stage"] == "3", "deepspeed_stage is '3'"),
    ):
        if is_sharded:
            yield (
                f"{what_needs} while {what}: {why}, and each process has parts of them. Leave it out, or train without "
                "sharding."
            )


def _broken(pattern: str) -> str:
    """Return why a regular expression can't be used, or an empty text."""
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""
