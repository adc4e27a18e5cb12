"""Components: registered ones, those that ship, and the lookup by the names that jobs have for them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from mafunzo.control.pipelines.plan import PinnedComponent
from mafunzo.control.store.codec import decode, encode
from mafunzo.control.workspace.environments import Environments
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.shipped_component import shipped, shipped_names
from mafunzo.control.workspace.version import put_version, referenced, registered, version_of
from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entities.asset_request import ComponentRequest
from mafunzo.entities.component import Component, Source
from mafunzo.entities.environment import Environment
from mafunzo.entities.reference import AssetReference, parse_reference
from mafunzo.errors import Faults, InvalidParameter, NotFound


class Components:
    """The verbs on components."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register(self, request: ComponentRequest) -> Asset:
        """Register a version of a component.

        Raises `NotFound` for code or an environment that isn't there, and `Conflict` for another interface under the name of a
        version that exists.
        """
        component = request.component
        if component.kind == "command":
            self._source(request.source)
        properties = {
            "component": encode(component),
            "source": encode(request.source),
            "user_properties": dict(request.user_properties),
        }
        asset = version_of(AssetType.COMPONENT, component.name, component.version, request, properties)
        return put_version(self._services, asset, is_replaced=request.is_anonymous or self._is_same(request))

    def _is_same(self, request: ComponentRequest) -> bool:
        """Return whether a version is this component, but for its description; clients send one back in other words."""
        name, version = request.component.name, request.component.version
        versions = registered(self._services, AssetType.COMPONENT, name)
        known = next((asset for asset in versions if asset.version == version), None)
        return known is not None and self._content(*definition(known)) == self._content(
            request.component, request.source
        )

    def _content(self, component: Component, source: Source) -> Any:
        content = replace(component, description="", display_name="", tags={})
        return content, self._source(source) if component.kind == "command" else None

    def named(self, written: str) -> PinnedComponent:
        """Return the component that a reference as text names, with its code and environment. Raises `NotFound`."""
        reference = parse_reference(written)
        return self.pin(reference if isinstance(reference, AssetReference) else written)

    def pin(self, named: AssetReference | str) -> PinnedComponent:
        """Return the component that a node's reference names, with its code and environment. Raises `NotFound`."""
        if isinstance(named, str):
            if named not in shipped_names():
                raise NotFound(
                    f"'{named}' doesn't name a component. Register one, or name one as azureml:NAME:VERSION."
                )
            return _shipped(named)
        if named.registry is not None:
            return _shipped(named.name)
        if not registered(self._services, AssetType.COMPONENT, named.name) and named.name in shipped_names():
            return _shipped(named.name)
        if named.label == "default":  # the version that is meant where none is named
            named = replace(named, label=None)
        return self.pinned(*definition(referenced(self._services, AssetType.COMPONENT, named)))

    def pinned(self, component: Component, source: Source) -> PinnedComponent:
        """Return a user's component with the code and environment that its source names. Raises `NotFound`."""
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
        faults = Faults()
        faults.attempt(lambda: self._code(source.code), None)
        faults.attempt(lambda: Environments(self._services).find(source.environment), None)
        faults.require_none("The command names what isn't there.")

    def _source(self, source: Source) -> tuple[str | None, Environment | None]:
        return self._code(source.code), Environments(self._services).find(source.environment)

    def _code(self, reference: AssetReference | str | None) -> str | None:
        if reference is None:
            return None
        if isinstance(reference, str):
            raise InvalidParameter(f"code is '{reference}', expected a folder that was uploaded.", param="code")
        return referenced(self._services, AssetType.CODE, reference).artifact


def definition(asset: Asset) -> tuple[Component, Source]:
    """Return a registered component, and where it works, of a command."""
    return decode(Component, asset.properties["component"]), decode(Source, asset.properties["source"])


def _shipped(name: str) -> PinnedComponent:
    component = shipped(name)
    return PinnedComponent(component.component, code=component.code, is_trusted=True)


def _hash(*parts: str) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"
