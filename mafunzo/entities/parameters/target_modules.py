"""Target modules: which linear layers get a LoRA adapter, of which rank and scale; peft's rules, on names alone.

Both planes ask: the plan with the names in a model's files, the finetune step with those of the network itself. A name is a
module's: `model.layers.3.self_attn.q_proj`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

ALL_LINEAR = ("all", "all-linear")
"""What LLaMA-Factory and PEFT call all linear layers but the head."""
OF_TARGETS = (
    "lora_target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)
"""The parameters that say it."""
_NAMES = re.compile(r"[\w\s.,'\"-]*")
_LAYERS = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")


@dataclass(frozen=True)
class Modules:
    """Modules by the ends of their names (`q_proj`, `self_attn.q_proj`), or by a regular expression of whole names."""

    names: tuple[str, ...] = ()
    pattern: str = ""

    @classmethod
    def of(cls, text: str | None) -> Self:
        """Return the modules of `q_proj,v_proj`, also as a list in brackets; a text that is no list of names is a pattern."""
        text = (text or "").strip()
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        return cls(split_names(text)) if _NAMES.fullmatch(inner) else cls(pattern=text)

    def __bool__(self) -> bool:
        return bool(self.names or self.pattern)

    def __contains__(self, module: str) -> bool:
        if self.pattern:
            return re.fullmatch(self.pattern, module) is not None
        return any(ends_on(module, name) for name in self.names)

    def parts(self) -> Iterator["Modules"]:
        """Yield each name, or the pattern, by itself."""
        yield from [self] if self.pattern else [Modules((name,)) for name in self.names]

    def __str__(self) -> str:
        return self.pattern or ",".join(self.names)


@dataclass(frozen=True)
class TargetModules:
    """The layers that get an adapter, and what is theirs alone.

    chosen: all linear layers but the head if empty. excluded: taken out of them. layers: numbers of decoder layers, all if
    empty; layers_pattern: what the list of these is called in names, the first with a number behind it if empty.
    ranks, alphas: by a regular expression of the end of a name, where not those of the adapter; the first that fits counts.
    """

    chosen: Modules = Modules()
    excluded: Modules = Modules()
    layers: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return those of a job's parameters, which have no faults (`lora_faults`)."""
        chosen = Modules.of(values["lora_target_modules"])
        return cls(
            Modules() if set(chosen.names) <= set(ALL_LINEAR) and not chosen.pattern else chosen,
            Modules.of(values["exclude_modules"]),
            layer_numbers(values["layers_to_transform"]),
            split_names(values["layers_pattern"]),
            {key: int(rank) for key, rank in pattern_values(values["rank_pattern"]).items()},
            pattern_values(values["alpha_pattern"]),
        )

    @property
    def is_default(self) -> bool:
        """Whether all linear layers but the head are meant, and all alike."""
        return self == TargetModules()

    def select(self, linears: Sequence[str], head: str = "") -> list[str]:
        """Return the layers that get an adapter, of the names of all linear layers; head: the head's, if it is among them."""
        return [name for name in linears if self._has(name, head)]

    def _has(self, name: str, head: str) -> bool:
        if name in self.excluded or not (name in self.chosen if self.chosen else name != head):
            return False
        return not self.layers or layer_number(name, self.layers_pattern) in self.layers

    def faults(
        self,
        linears: Sequence[str],
        head: str = "",
        is_head_tied: bool = False,
        model: str = "",
        others: Sequence[str] = (),
    ) -> list[str]:
        """Return what names no layer, with those that there are.

        model: what the network is called, for the texts. others: names of weights that no linear layer has.
        """
        body = [name for name in linears if name != head]
        return [
            *self._unknown("lora_target_modules", self.chosen, linears, body, model, others),
            *self._unknown("exclude_modules", self.excluded, linears, body, model),
            *self._head_fault(linears, head if is_head_tied else "", model),
            *self._layer_faults(linears, head, model),
            *self._pattern_faults(linears, head),
        ]

    def _unknown(
        self,
        parameter: str,
        modules: Modules,
        linears: Sequence[str],
        body: Sequence[str],
        model: str,
        others: Sequence[str] = (),
    ) -> Iterator[str]:
        of = f" for {model}" if model else ""
        for part in modules.parts():
            if any(name in part for name in linears):
                continue
            if part.pattern:
                yield (
                    f"{parameter} is the pattern '{part}', which matches the whole name of no linear layer{of}. They are "
                    f"{_kinds(body)}."
                )
                continue
            is_weight = any(name in part for name in others)
            why = ", whose weights are in one tensor and no linear layer's" if is_weight else ""
            yield f"{parameter} has '{part}'{why}, expected some of {', '.join(_last_parts(body))}{of}."

    def _head_fault(self, linears: Sequence[str], tied_head: str, model: str) -> Iterator[str]:
        """Yield that a head is meant whose weight is the embedding's."""
        if tied_head and tied_head in self.select(linears, tied_head):
            part = next(part for part in self.chosen.parts() if tied_head in part)
            what = f"is the pattern '{part}', which matches {tied_head}" if part.pattern else f"has '{part}'"
            where = f" in {model}" if model else ""
            yield f"lora_target_modules {what}, whose weight is the embedding's too{where}: leave it out."

    def _layer_faults(self, linears: Sequence[str], head: str, model: str) -> Iterator[str]:
        of = f" for {model}" if model else ""
        numbers = {layer_number(name, self.layers_pattern) for name in linears} - {None}
        known = sorted(number for number in numbers if number is not None)
        if self.layers and not known:
            what = (
                f"layers_pattern is '{','.join(self.layers_pattern)}'"
                if self.layers_pattern
                else "layers_to_transform is given"
            )
            body = [name for name in linears if name != head]
            yield f"{what}, and no linear layer{of} is in such a list. They are {_kinds(body)}."
            return
        if unknown := [str(number) for number in self.layers if number not in known]:
            yield f"layers_to_transform has {', '.join(unknown)}, expected {known[0]} to {known[-1]}{of}."
        elif all(any(name in part for name in linears) for part in self.chosen.parts()) and not self.select(
            linears, head
        ):
            yield (
                f"No layer{of} gets an adapter, and nothing would be trained: lora_target_modules, exclude_modules and "
                "layers_to_transform have none in common."
            )

    def _pattern_faults(self, linears: Sequence[str], head: str) -> Iterator[str]:
        selected = self.select(linears, head)
        for parameter, pattern in (("rank_pattern", self.ranks), ("alpha_pattern", self.alphas)):
            for key in pattern:
                if selected and not any(by_pattern({key: 1}, name, 0) for name in selected):
                    known = ", ".join(_last_parts(selected))
                    yield f"{parameter} has '{key}', which is none of the layers that get an adapter: {known}."


def ends_on(module: str, name: str) -> bool:
    """Return whether a module is called so, or ends on it after a dot."""
    return module == name or module.endswith(f".{name}")


def layer_number(module: str, layers_pattern: Sequence[str] = ()) -> int | None:
    """Return the number of the decoder layer that a module is in, as peft reads it from the name."""
    patterns = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in layers_pattern] or [r".*?\.[^.]*\.(\d+)\."]
    matches = (re.match(pattern, module) for pattern in patterns)
    return next((int(match[1]) for match in matches if match), None)


def by_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """Return the value of the first key of peft's `rank_pattern` or `alpha_pattern` that a module's name ends on."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def split_names(text: str | None) -> tuple[str, ...]:
    """Return the names in `q_proj,v_proj`, also with spaces or as a list in brackets."""
    return tuple(name for name in re.split(r"[\s,\[\]'\"]+", text or "") if name)


def layer_numbers(text: str | None) -> tuple[int, ...]:
    """Return the numbers in `0,1,8-11`, whose ranges have both ends, also as a list in brackets; raises `ValueError`."""
    numbers: list[int] = []
    for part in re.split(r"\s*,\s*", (text or "").strip().removeprefix("[").removesuffix("]").strip()):
        match = _LAYERS.fullmatch(part)
        if match is None and part:
            raise ValueError(f"'{part}' is neither a number nor a range")
        if match is not None:
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last < _MOST_LAYERS:
                raise ValueError(f"'{part}' is no range of layers")
            numbers += range(first, last + 1)
    return tuple(dict.fromkeys(numbers))


_MOST_LAYERS = 10_000


def pattern_values(text: str | None) -> dict[str, float]:
    """Return the numbers of a JSON object by its keys, which are regular expressions; raises `ValueError`."""
    body = json.loads(text) if text else {}
    if not isinstance(body, dict):
        raise ValueError("it isn't a JSON object")
    for key, value in body.items():
        re.compile(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"the value of '{key}' is {json.dumps(value)}")
    return body


def _last_parts(names: Sequence[str]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def _kinds(names: Sequence[str]) -> str:
    """Return names with N for the numbers of layers."""
    kinds = dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".N", name) for name in names)
    numbers = [number for name in names if (number := layer_number(name)) is not None]
    return ", ".join(kinds) + (f" (N: {min(numbers)} to {max(numbers)})" if numbers else "")
