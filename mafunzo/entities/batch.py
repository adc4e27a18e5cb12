"""A batch endpoint and its deployments: a name under which files of rows are answered, and what is asked of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mafunzo.entities.job import Value
from mafunzo.entities.job_request import RequestInput
from mafunzo.entities.reference import AssetReference

BATCH_ENDPOINT, BATCH_DEPLOYMENT = "batch_endpoint", "batch_deployment"
"""The properties of a job that name what it was asked through."""


@dataclass(frozen=True)
class BatchEndpoint:
    """A name that files of rows are sent to. Nothing runs until one comes.

    default_deployment: which answers where none is named; empty for none. echoes: what a way in keeps of a request's
    original body, under its own name, to answer with it; nothing else reads it.
    """

    name: str
    default_deployment: str = ""
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    created_by: str = ""
    created_at: datetime | None = None
    echoes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchDeployment:
    """A model, `name:version`, with the parameters of batch scoring by which it answers. compute: empty for this machine."""

    endpoint: str
    name: str
    model: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    compute: str = ""
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    created_by: str = ""
    created_at: datetime | None = None
    echoes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchEndpointRequest:
    """What a batch endpoint is to be; each field is as there."""

    default_deployment: str = ""
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    echoes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchDeploymentRequest:
    """What a deployment of a batch endpoint is to be; each field is as there."""

    model: AssetReference
    parameters: Mapping[str, Value] = field(default_factory=dict)
    compute: str = ""
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    echoes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Invocation:
    """A file of rows to answer. deployment: empty for the default. parameters: they win over the deployment's. output: what
    the job calls its output."""

    data: RequestInput
    deployment: str = ""
    parameters: Mapping[str, Value] = field(default_factory=dict)
    job_name: str = ""
    experiment: str = ""
    output: str = "predictions"
