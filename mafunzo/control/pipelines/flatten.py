"""Flattens a pipeline of pipelines into one of commands: a node `a` that is a pipeline with a node `b` becomes `a.b`.

Pure: what nodes name is looked up by the caller's `pin`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mafunzo.control.pipelines.binding import filled
from mafunzo.control.pipelines.plan import PinnedComponent
from mafunzo.entities.component import PARENT_INPUT, PARENT_OUTPUT, STEP_OUTPUT, Component, Node, unknown_name
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import InvalidParameter, UsageError

Pin = Callable[[AssetReference | str], PinnedComponent]
MAX_STEPS = 1000
"""The most steps of a pipeline without the trials of its sweeps, and the most trials of those together."""


@dataclass(frozen=True)
class Flat:
    """A pipeline of commands only, and what its nodes' `component` names."""

    pipeline: Component
    pinned: Mapping[AssetReference | str, PinnedComponent]


def flatten(pipeline: Component, pin: Pin) -> Flat:
    """Return the pipeline with every node that is a pipeline replaced by that one's nodes.

    Raises `InvalidParameter` with the fault of each node that can't be found, of each input of an inner pipeline that it
    doesn't have or lacks, of each text that can't be filled, of a pipeline that contains itself, and of too many steps.
    """
    work = _Work(pin)
    nodes = work.nodes_of(pipeline.nodes, within=())
    if work.faults:
        raise InvalidParameter(f"Pipeline '{pipeline.name}' can't be planned.", work.faults)
    return Flat(replace(pipeline, nodes=nodes), work.pinned)


class _Work:
    def __init__(self, pin: Pin) -> None:
        self._pin = pin
        self.pinned: dict[AssetReference | str, PinnedComponent] = {}
        self.faults: list[str] = []

    def nodes_of(self, nodes: Mapping[str, Node], within: tuple[AssetReference | str, ...]) -> dict[str, Node]:
        """Return the commands below `nodes`, bound to one another and to the pipeline that `nodes` are of.

        `within` are the components of the pipelines around it.
        """
        commands: dict[str, Node] = {}
        sources: dict[str, str] = {}  # an inner pipeline's output, as it was bound to, to the step's that writes it
        for name, node in nodes.items():
            component = self._look_up(node)
            if component is None:
                continue
            if component.kind == "command":
                commands[name] = node
            elif node.sweep is not None:
                self.faults.append(f"step '{name}': its trial '{component.name}' is a pipeline, expected a command.")
            elif node.component in within:
                self.faults.append(f"step '{name}': the pipeline '{component.name}' contains itself.")
            else:
                values = self._input_values(node, component)
                inner = self.nodes_of(component.nodes, (*within, node.component))
                sources |= _sources(name, inner)
                commands |= {f"{name}.{step}": self._placed(node, step, own, values) for step, own in inner.items()}
        if len(commands) > MAX_STEPS:
            raise InvalidParameter(f"The pipeline has more than {MAX_STEPS} steps. Split it into several jobs.")
        trials = sum(node.sweep.trial_count for node in commands.values() if node.sweep is not None)
        if trials > MAX_STEPS:
            raise InvalidParameter(
                f"The sweeps of the pipeline have {trials} trials in all, expected at most {MAX_STEPS}. "
                "Set max_total_trials of each."
            )
        return {
            name: replace(node, inputs={key: _follow(value, sources) for key, value in node.inputs.items()})
            for name, node in commands.items()
        }

    def _look_up(self, node: Node) -> Component | None:
        if node.component not in self.pinned:
            try:
                self.pinned[node.component] = self._pin(node.component)
            except UsageError as error:
                self.faults += [f"step '{node.name}': {fault}" for fault in (error.faults or [error.message])]
                return None
        return self.pinned[node.component].component

    def _input_values(self, outer: Node, component: Component) -> dict[str, Any]:
        """Return the values of an inner pipeline's inputs, as bindings of the outer one; None for an input without a value."""
        self.faults += [
            f"step '{outer.name}': {unknown_name(name, component.inputs)}"
            for name in outer.inputs
            if name not in component.inputs
        ]
        values = {name: declared.default for name, declared in component.inputs.items()} | dict(outer.inputs)
        self.faults += [
            f"step '{outer.name}': {name} is missing. It is an input of the pipeline '{component.name}'."
            for name, declared in component.inputs.items()
            if values[name] is None and not declared.is_optional
        ]
        return values

    def _placed(self, outer: Node, name: str, node: Node, values: Mapping[str, Any]) -> Node:
        """Return an inner pipeline's node as one of the outer pipeline's."""
        where = f"step '{outer.name}.{name}'"
        inputs = {
            key: self._from_outside(outer.name, f"{where}: {key}", value, values) for key, value in node.inputs.items()
        }
        bound = {
            key: self._filled(f"{where}: {key}", text, values) for key, text in _effective_bindings(node.bound, values)
        }
        outputs = {key: text for key, written in node.outputs.items() if (text := _to_outside(outer, written))}
        own = {
            key: destination
            for key, written in node.outputs.items()
            if (match := PARENT_OUTPUT.fullmatch(written.strip())) and (destination := outer.destinations.get(match[1]))
        }
        return replace(
            node,
            name=f"{outer.name}.{name}",
            inputs={key: value for key, value in inputs.items() if value is not None},
            outputs=outputs,
            environment={
                **{
                    key: self._filled(f"{where}: {key}", text, values) if PARENT_INPUT.search(text) else text
                    for key, text in node.environment.items()
                },
                **outer.environment,
            },
            destinations={**node.destinations, **own},
            bound=bound,
        )

    def _from_outside(self, outer: str, who: str, value: Any, values: Mapping[str, Any]) -> Any:
        """Return an inner node's input with the outer pipeline's values in the place of the inner pipeline's inputs."""
        if not isinstance(value, str):
            return value
        if match := PARENT_INPUT.fullmatch(value.strip()):
            return values.get(match[1])
        if match := STEP_OUTPUT.fullmatch(value.strip()):
            return _binding(f"{outer}.{match[1]}.outputs.{match[2]}")
        return self._filled(who, value, values)

    def _filled(self, who: str, text: str, values: Mapping[str, Any]) -> str:
        whole, fault = filled(text, values)
        self.faults += [f"{who} {fault}"] if fault else []
        return whole


def _effective_bindings(bound: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a node's bound settings, without those bound to an optional input of its pipeline that has no value."""
    for name, text in bound.items():
        match = PARENT_INPUT.fullmatch(text.strip())
        if match is None or values.get(match[1], "") is not None:
            yield name, text


def _to_outside(outer: Node, written: str) -> str:
    """Return the outer pipeline's output that an inner node's output feeds; an empty text for none."""
    match = PARENT_OUTPUT.fullmatch(written.strip())
    return outer.outputs.get(match[1], "") if match else ""


def _sources(outer: str, inner: Mapping[str, Node]) -> dict[str, str]:
    """Return which step writes each output of an inner pipeline: `outer.outputs.x` to `outer.step.outputs.y`."""
    return {
        f"{outer}.outputs.{match[1]}": f"{outer}.{step}.outputs.{output}"
        for step, node in inner.items()
        for output, written in node.outputs.items()
        if (match := PARENT_OUTPUT.fullmatch(written.strip()))
    }


def _follow(value: Any, sources: Mapping[str, str]) -> Any:
    """Return an input that is bound to an inner pipeline's output, bound to the step that writes it; others as they are."""
    match = STEP_OUTPUT.fullmatch(value.strip()) if isinstance(value, str) else None
    source = sources.get(f"{match[1]}.outputs.{match[2]}") if match else None
    return _binding(source) if source else value


def _binding(output: str) -> str:
    return f"${{{{parent.jobs.{output}}}}}"
