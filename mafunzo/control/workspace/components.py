"""Components: registered ones, those that ship, the lookup by the names that jobs have for them, and the code they work in."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import replace
from typing import Any

from mafunzo.control.pipelines.plan import PinnedComponent
from mafunzo.control.store.codec import decode, encode
from mafunzo.control.workspace.environments import Environments
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.shipped_component import shipped, shipped_interface, shipped_names
from mafunzo.control.workspace.versions import Versions, followed_by
from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entities.asset_request import CodeRequest, ComponentRequest
from mafunzo.entities.component import Component, Source
from mafunzo.entities.environment import Environment
from mafunzo.entities.reference import AssetReference, parse_reference
from mafunzo.errors import Faults, InvalidParameter, NotFound

Assets = list[Asset]  # a class below has a verb called list
Interfaces = list[Component]


class Components:
    """The verbs on components."""

    def __init__(self, services: Services) -> None:
        self._versions = Versions(services, AssetType.COMPONENT)
        self._codes = Versions(services, AssetType.CODE)
        self._environments = Environments(services)

    def create(self, request: ComponentRequest) -> Asset:
        """Register a version of a component.

        Raises `NotFound` for code or an environment that isn't there, and `VersionTaken` for another interface under the name
        of a version that exists.
        """
        component = request.component
        if component.kind == "command":
            self._source(request.source)
        properties = {
            "component": encode(component),
            "source": encode(request.source),
            "user_properties": dict(request.user_properties),
        }
        is_replaced = request.is_anonymous or self._is_same(request)
        return self._versions.put(component.name, component.version, request, properties, is_replaced=is_replaced)

    def list(self, with_archived: bool = False, limit: int | None = None, before: str | None = None) -> Interfaces:
        """Return the registered components that have names of their own, newest first: all, or `limit` after a version.

        before: `name:version`. Raises `NotFound` where there is no such version.
        """
        assets = self._versions.page(limit, before, with_archived=with_archived, with_anonymous=False)
        return [definition(asset)[0] for asset in assets]

    def page(self, with_archived: bool, limit: int | None, before: str | None) -> Interfaces:
        """Return the registered components, newest first, then those that ship: `limit` after the one called `before`."""
        return followed_by(
            self.on_offer,
            lambda component: f"{component.name}:{component.version}",
            lambda last: self.list(with_archived, limit, last),
            limit,
            before,
        )

    def on_offer(self) -> Interfaces:
        """Return the components that ship with Mafunzo, by name."""
        return [shipped_interface(name) for name in shipped_names()]

    def ships(self, component: Component) -> bool:
        """Return whether a component is one that ships with Mafunzo, and not one that was registered under its name."""
        return component.name in shipped_names() and component == shipped_interface(component.name)

    def get(self, name: str) -> PinnedComponent:
        """Return the component of a name, or of `name:version`, with its code and environment. Raises `NotFound`."""
        reference = parse_reference(name)
        return self.pin(reference if isinstance(reference, AssetReference) else name)

    def archive(self, reference: str, is_archived: bool = True) -> Assets:
        """Hide a registered version, or all of a name, from lists, or show them again. Raises `NotFound`."""
        return self._versions.archive(reference, is_archived)

    def _is_same(self, request: ComponentRequest) -> bool:
        """Return whether a version is this component, but for its description; clients send one back in other words."""
        known = self._versions.find(request.component.name, request.component.version)
        return known is not None and self._content(*definition(known)) == self._content(
            request.component, request.source
        )

    def _content(self, component: Component, source: Source) -> Any:
        content = replace(component, description="", display_name="", tags={})
        return content, self._source(source) if component.kind == "command" else None

    def pin(self, named: AssetReference | str) -> PinnedComponent:
        """Return the component that a node's reference names, with its code and environment. Raises `NotFound`."""
        if isinstance(named, str):
            if named not in shipped_names():
                raise NotFound(f"'{named}' doesn't name a component. Register one, or name one as NAME:VERSION.")
            return shipped(named)
        if named.registry is not None:
            return shipped(named.name)
        if named.name in shipped_names() and not self._versions.has(named.name):
            return shipped(named.name)
        if named.label == "default":  # the version that is meant where none is named
            named = replace(named, label=None)
        return self.pinned(*definition(self._versions.get(named)))

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
        faults.attempt(lambda: self._environments.find(source.environment), None)
        faults.require_none("The command names what isn't there.")

    def _source(self, source: Source) -> tuple[str | None, Environment | None]:
        return self._code(source.code), self._environments.find(source.environment)

    def _code(self, reference: AssetReference | str | None) -> str | None:
        if reference is None:
            return None
        if isinstance(reference, str):
            raise InvalidParameter(f"code is '{reference}', expected a folder that was uploaded.", param="code")
        return self._codes.get(reference).artifact


class Codes:
    """The verbs on code: folders that clients upload, each stored by its content, in which commands work."""

    def __init__(self, services: Services) -> None:
        self._blobs = services.blobs
        self._versions = Versions(services, AssetType.CODE)

    def new_container(self) -> str:
        """Make a container to upload a folder into; return its name."""
        return self._blobs.create_container(f"code-{secrets.token_hex(16)}").name

    def create(self, name: str, version: str, request: CodeRequest) -> Asset:
        """Register an uploaded folder; raises `VersionTaken` and `NotFound`."""
        artifact = self._blobs.artifact(request.container, request.path)
        properties = {
            "container": request.container,
            "path": request.path,
            "hash": request.hash,
            "hash_version": request.hash_version,
        }
        return self._versions.put(name, version, request, properties, artifact)


def definition(asset: Asset) -> tuple[Component, Source]:
    """Return a registered component, and where it works, of a command."""
    return decode(Component, asset.properties["component"]), decode(Source, asset.properties["source"])


def _hash(*parts: str) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"
