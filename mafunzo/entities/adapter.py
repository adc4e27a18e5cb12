"""Adapters that the workers of a deployment serve beside its model, and what became of each on one worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class AdapterStatus(StrEnum):
    """loading: it is loaded and proven, or is to be. refused: it can't be loaded, or doesn't answer as in evaluation."""

    LOADING = "loading"
    LIVE = "live"
    REFUSED = "refused"


@dataclass(frozen=True)
class Adapter:
    """An adapter that a deployment serves: a version of a model, `name:version`, and the hash of its files.

    was_live: whether any worker of the deployment ever had it live.
    """

    model: str
    artifact: str
    was_live: bool = False


@dataclass(frozen=True)
class AdapterState:
    """What became of an adapter on one worker. artifact: what was loaded; attempt: the worker's that it was loaded into.

    loads: how often it was begun without an end. verification: what the proof that serving equals training compared. error: why
    it was refused.
    """

    artifact: str
    attempt: int
    status: AdapterStatus = AdapterStatus.LOADING
    loads: int = 1
    verification: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


def adapter_model(endpoint: str, adapter: str) -> str:
    """Return what requests call an adapter of an endpoint: `model` in OpenAI's dialect."""
    return f"{endpoint}:{adapter}"


def split_model(model: str) -> tuple[str, str | None]:
    """Return the endpoint and the adapter that a request's `model` names; without a colon, no adapter."""
    endpoint, colon, adapter = model.partition(":")
    return endpoint, adapter if colon else None


@dataclass(frozen=True)
class AdapterReport:
    """How an adapter stands: on all workers of its deployment, and on each. model_name: what requests call it.

    error: why it was refused, with all faults; verification: what its proof compared.
    """

    model_name: str
    deployment: str
    model: str
    status: AdapterStatus
    workers: Mapping[str, AdapterStatus]
    verification: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
