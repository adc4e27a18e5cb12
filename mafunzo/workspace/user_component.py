"""Components of the user's own: registered over a wire, and looked up by the names that jobs have for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entities.component import Component
from mafunzo.entities.environment import Environment
from mafunzo.entities.reference import AssetReference, parse_reference
from mafunzo.errors import InvalidParameter, NotFound
from mafunzo.pipelines.plan import PinnedComponent
from mafunzo.wire.azureml.asset import version_from_body
from mafunzo.wire.azureml.component import Source, component_from_dict, source_of
from mafunzo.wire.azureml.envelope import registry_id
from mafunzo.workspace.component import shipped, shipped_names
from mafunzo.workspace.environment import Environments
from mafunzo.workspace.request import attempt
from mafunzo.workspace.services import Services
from mafunzo.workspace.version import put_version, referenced, registered, version_of


class Components:
    """The verbs on components."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register_from(self, body: Mapping[str, Any], name: str, version: str) -> Asset:
        """Register a component as Azure's wire asks.

        Raises `InvalidFile` or `NotSupported` for an interface that can't be used, `NotFound` for code or an environment that
        isn't there, and `Conflict` for another interface under the name of a version that exists.
        """
        said = body.get("properties") or {}
        spec = {**(said.get("componentSpec") or {}), "name": name, "version": version}
        component = component_from_dict(spec, f"component {name}:{version}")
        if component.kind == "command":
            self._source(source_of(spec))
        properties = {
            "spec": spec,
            "properties": dict(said.get("properties") or {}),
        }
        request = version_from_body(body)
        asset = version_of(AssetType.COMPONENT, name, version, request, properties)
        is_replaced = request.is_anonymous or self._is_same(name, version, spec)
        return put_version(self._services, asset, is_replaced)

    def _is_same(self, name: str, version: str, spec: Mapping[str, Any]) -> bool:
        """Return whether a version is this component, but for what is said of it; clients send one back in other words."""
        known = registered(self._services, AssetType.COMPONENT, name)
        found = next((asset.properties["spec"] for asset in known if asset.version == version), None)
        return found is not None and self._content(found) == self._content(spec)

    def _content(self, spec: Mapping[str, Any]) -> Any:
        component = component_from_dict(spec, "the component")
        content = replace(component, description="", display_name="", tags={})
        return content, self._source(source_of(spec)) if component.kind == "command" else None

    def pin(self, written: str) -> PinnedComponent:
        """Return what a node's name of a component stands for, with its code and environment. Raises `NotFound`."""
        reference = parse_reference(written)
        if not isinstance(reference, AssetReference):
            raise NotFound(f"'{written}' doesn't name a component. Register one, or name one as azureml:NAME:VERSION.")
        if reference.registry is not None:
            return _shipped(reference.name)
        if not registered(self._services, AssetType.COMPONENT, reference.name) and reference.name in shipped_names():
            return _shipped(reference.name)
        if reference.label == "default":  # Azure's word for the version that is meant where none is named
            reference = replace(reference, label=None)
        spec = referenced(self._services, AssetType.COMPONENT, reference).properties["spec"]
        return self.pinned(component_from_dict(spec, str(reference)), source_of(spec))

    def pinned(self, component: Component, source: Source) -> PinnedComponent:
        """Return a component of the user's with what its source names. Raises `NotFound`."""
        if component.kind == "pipeline":
            return PinnedComponent(component, code=_hash(component.name, component.version))
        code, environment = self._source(source)
        variables = environment.variables if environment else {}
        return PinnedComponent(
            component=replace(component, environment={**variables, **component.environment}),
            code=_hash(component.command),
            code_artifact=code,
            runtime=environment,
        )

    def require_source(self, source: Source) -> None:
        """Raise `InvalidParameter` with all that a command names and that isn't there."""
        faults: list[str] = []
        attempt(lambda: self._code(source.code), faults)
        attempt(lambda: Environments(self._services).find(source.environment), faults)
        if faults:
            raise InvalidParameter("The command names what isn't there.", faults)

    def _source(self, source: Source) -> tuple[str | None, Environment | None]:
        return self._code(source.code), Environments(self._services).find(source.environment)

    def _code(self, written: str | None) -> str | None:
        if written is None:
            return None
        reference = parse_reference(written)
        if not isinstance(reference, AssetReference):
            raise InvalidParameter(f"code is '{written}', expected a folder that was uploaded.", param="code")
        return referenced(self._services, AssetType.CODE, reference).artifact


def environment_name(asset: Asset) -> str | None:
    """Return what a registered component calls its environment; None for Mafunzo's own."""
    return source_of(asset.properties["spec"]).environment


def _shipped(name: str) -> PinnedComponent:
    """Return a component that ships with Mafunzo; the nodes of a pipeline among them are such too."""
    found = shipped(name)
    nodes = {
        step: replace(node, component=registry_id("components", node.component))
        for step, node in found.component.nodes.items()
    }
    return PinnedComponent(replace(found.component, nodes=nodes), code=found.code, is_trusted=True)


def _hash(*parts: str) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"
