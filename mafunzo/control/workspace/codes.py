"""Code: folders that a client uploads, each stored by its content, in which the commands of its components work."""

from __future__ import annotations

import secrets

from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.version import put_version, version_of
from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entities.asset_request import CodeRequest


class Codes:
    """The verbs on code."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def new_container(self) -> str:
        """Make a container to upload a folder into; return its name."""
        return self._services.blobs.create_container(f"code-{secrets.token_hex(16)}").name

    def register_from(self, request: CodeRequest, name: str, version: str) -> Asset:
        """Register an uploaded folder; raises `Conflict` and `NotFound`."""
        artifact = self._services.blobs.artifact(request.container, request.path)
        properties = {
            "container": request.container,
            "path": request.path,
            "hash": request.hash,
            "hash_version": request.hash_version,
        }
        return put_version(self._services, version_of(AssetType.CODE, name, version, request, properties, artifact))
