"""What holds an artifact's bytes on the disk, and freeing those that nothing holds any more."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from mafunzo.control.store.codec import encode
from mafunzo.control.store.records import ARTIFACT_HASH
from mafunzo.control.workspace.services import Services
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetType
from mafunzo.entities.job import Job, Step


@dataclass(frozen=True)
class Holders:
    """What names an artifact: jobs by name, registered models as `name:version`."""

    jobs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


def named_artifacts(*entities: Asset | Job | Step) -> set[str]:
    """Return every artifact hash that stands anywhere in entities."""
    return {artifact for entity in entities for artifact in ARTIFACT_HASH.findall(json.dumps(encode(entity)))}


def holders_of(services: Services, artifact: str) -> Holders:
    """Return which jobs and registered models name the bytes of an artifact, so that they stay on the disk."""
    records = services.records
    return Holders(tuple(records.jobs_naming(artifact)), tuple(map(str, records.models_naming(artifact))))


def models_made_by(services: Services, job: str) -> tuple[Asset, ...]:
    """Return the registered models, archived ones too, that came from a job."""
    return tuple(services.records.assets.list(WORKSPACE_SCOPE, AssetType.MODEL, with_archived=True, facts={"job": job}))


def free(services: Services, artifacts: Iterable[str], referenced_until: datetime | None) -> int:
    """Delete what only deleted records named, at once; return the bytes freed, with those of a collection.

    `artifacts` are the hashes that the deleted records named, the last of them at `referenced_until`. One that was put again
    since then may be about to be named by a new record: the grace of `Artifacts.collect` protects it.
    """
    unused = {artifact for artifact in artifacts if services.artifacts.exists(artifact)}
    unused -= services.records.referenced_artifacts()
    freed = 0
    for artifact in unused:
        put_at = services.artifacts.manifest_path(artifact).stat().st_mtime
        if referenced_until is not None and put_at <= referenced_until.timestamp():
            freed += services.artifacts.delete(artifact)
    return freed + services.artifacts.collect(services.records.referenced_artifacts())
