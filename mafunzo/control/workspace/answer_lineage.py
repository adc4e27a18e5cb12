"""From an answer back: its deployment, and the version of the model that gave it, whatever has become of both since."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mafunzo.control.serving import request_log
from mafunzo.control.serving.answer_id import reference_of
from mafunzo.control.serving.request_log import LoggedRequest
from mafunzo.control.workspace.closest_rows import training_data
from mafunzo.control.workspace.lineage import Lineage, Link, data_of_model, job_links, model_links
from mafunzo.control.workspace.model_source import ModelSources
from mafunzo.control.workspace.services import Services
from mafunzo.entities.asset import Asset
from mafunzo.entities.job import Job
from mafunzo.entities.serving import Serving
from mafunzo.errors import InvalidParameter, NotFound

ANSWER = "answer:"
"""Begins what names an answer."""


def trace_answer(services: Services, answer_id: str) -> Lineage:
    """Trace an answer by its id. Raises `InvalidParameter` for an id that this home didn't make, `NotFound`."""
    serving = _serving(services, answer_id)
    logged = request_log.find(services.home, serving.reference, answer_id)
    asset = _asset(services, serving)
    job = _job(services, serving) if asset is None else None
    return Lineage(
        tuple(_links(services, answer_id, serving, asset, job, logged)),
        training_data(job, None) if asset is None else data_of_model(services, asset),
        text="" if logged is None else logged.answer,
    )


def _serving(services: Services, answer_id: str) -> Serving:
    reference = reference_of(services.home.secret(), answer_id)
    if reference is None:
        raise InvalidParameter(
            f"'{answer_id[:80]}' isn't the id of an answer of this home. It is the 'id' of an answer or of a chunk "
            "(chatcmpl-...), or stands in the header mafunzo-answer of /score."
        )
    serving = services.records.servings.find(reference)
    if serving is None:
        raise NotFound(
            f"Nothing is known of what gave answer {answer_id}: the home was restored from a backup that is older."
        )
    return serving


def _links(
    services: Services,
    answer_id: str,
    serving: Serving,
    asset: Asset | None,
    job: Job | None,
    logged: LoggedRequest | None,
) -> Iterator[Link]:
    facts: dict[str, Any] = {"request_log": "not kept"}
    if logged is not None:
        facts = {"at": logged.at, "path": logged.path, "status": logged.status}
    yield Link("answer", answer_id, facts)
    yield _deployment_link(services, serving)
    if asset is None:
        yield replace(_files(services, serving), name=f"{serving.model} (no longer registered with these files)")
        if job is not None:
            yield from job_links(services, job, 3)
        return
    for link in model_links(services, asset):
        yield replace(link, depth=link.depth + 2)
    if asset.artifact is None:  # of the catalogue: the files that a job has fetched
        yield _files(services, serving)
    base = serving.base_artifact
    if base is not None:
        yield _stored(services, "base", f"of {serving.model}", base)


def _deployment_link(services: Services, serving: Serving) -> Link:
    name = f"{serving.endpoint}/{serving.deployment}"
    facts = {"endpoint": serving.endpoint, "served": serving.model, "deployed": serving.deployed_at}
    present = [one for one in services.records.deployments.list(serving.endpoint) if one.name == serving.deployment]
    if not present or present[0].serving.deployed_at != serving.deployed_at:
        return Link("deployment", f"{name} (deleted)", facts, depth=1)
    if serving not in [one for worker in present[0].workers for one in worker.servings]:
        return Link("deployment", f"{name} (serves {present[0].model} now)", facts, depth=1)
    return Link("deployment", name, {**facts, "status": str(present[0].status)}, depth=1)


def _asset(services: Services, serving: Serving) -> Asset | None:
    """Return the version of the model, or None where it has gone, or is another one of its name by now."""
    try:
        asset = ModelSources(services).get(serving.model)
    except NotFound:
        return None
    return asset if asset.artifact in (None, serving.artifact) else None


def _job(services: Services, serving: Serving) -> Job | None:
    """Return the first job that names the files of a model which is registered no more, or None: the one that made them."""
    names = services.records.jobs_naming(serving.artifact)
    return services.records.jobs.find_named(names[-1]) if names else None


def _files(services: Services, serving: Serving) -> Link:
    return _stored(services, "model", serving.model, serving.artifact)


def _stored(services: Services, kind: str, name: str, artifact: str) -> Link:
    if not services.artifacts.exists(artifact):
        return Link(kind, name, artifact=artifact, depth=2, is_pruned=True)
    return Link(kind, name, artifact=artifact, faults=tuple(services.artifacts.verify(artifact)), depth=2)
