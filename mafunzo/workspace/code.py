"""Code: folders that a client uploads, each stored by its content, in which the commands of its components work."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from mafunzo.entities.asset import Asset, AssetType
from mafunzo.wire.azureml.code import HASH, code_from_body
from mafunzo.workspace.services import Services
from mafunzo.workspace.version import put_version, version_of


class Codes:
    """The verbs on code."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def new_container(self) -> str:
        """Make a container to upload a folder into; return its name."""
        return self._services.blobs.create_container(f"code-{secrets.token_hex(16)}").name

    def register_from(self, body: Mapping[str, Any], name: str, version: str) -> Asset:
        """Register an uploaded folder as Azure's wire asks; raises `Conflict` and `NotFound`."""
        asked = code_from_body(body)
        artifact = self._services.blobs.artifact(asked.container, asked.path)
        said = body["properties"]
        facts = said.get("properties") or {}
        properties = {
            "uri": asked.uri,
            "hash": str(facts.get(HASH) or ""),
            "hash_version": str(facts.get("hash_version") or ""),
            "is_anonymous": bool(said.get("isAnonymous", False)),
        }
        return put_version(self._services, version_of(AssetType.CODE, name, version, properties, body, artifact))
