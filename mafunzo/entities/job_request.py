"""A job as it is asked for, whoever asks and in whatever words, and what of a job can be changed later."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mafunzo.entities.component import Component, Source
from mafunzo.entities.job import ArtifactInput, Destination, Job, Value
from mafunzo.entities.reference import AssetReference, PathInput
from mafunzo.entities.sweep import Sweep

RequestInput = Value | PathInput | ArtifactInput
"""A value, a file or folder by what names it, or one that is stored already."""


@dataclass(frozen=True)
class OwnCommand:
    """A command that a request brings along, rather than naming a component."""

    component: Component
    source: Source = field(default_factory=Source)


@dataclass(frozen=True)
class JobChange:
    """What is to be changed of a job; None leaves it as it is. Of the user's properties, those that are named."""

    display_name: str | None = None
    description: str | None = None
    tags: Mapping[str, str] | None = None
    user_properties: Mapping[str, Any] | None = None
    is_archived: bool | None = None


@dataclass(frozen=True)
class JobRequest:
    """A job that is asked for.

    pipeline: what it says of its nodes, inputs and outputs; its inputs are all given, by name in `inputs`. A command alone is
    a pipeline of one step.
    component: the pipeline that the job is, whose nodes are taken where it has none of its own: a registered one, or by a text
    one that ships.
    commands: what a node runs that names no component, by the node's `component`. computes: who names which.
    destinations: what else becomes of the job's outputs. sweep: the job is one, and its only node is to become its trials.
    display_name: empty for the job's name. tags, description, user_properties, is_archived: None where nothing is said.
    has_model_defaults: whether the base model's card says what isn't given; a client that read the card says it itself.
    echoes: what the way in keeps of the request's original body.
    """

    name: str
    pipeline: Component
    inputs: Mapping[str, RequestInput] = field(default_factory=dict)
    component: AssetReference | str | None = None
    commands: Mapping[str, OwnCommand] = field(default_factory=dict)
    computes: Mapping[str, str] = field(default_factory=dict)
    destinations: Mapping[str, Destination] = field(default_factory=dict)
    sweep: Sweep | None = None
    display_name: str = ""
    experiment: str = "default"
    priority: int = 0
    force_rerun: bool = False
    continue_on_step_failure: bool = False
    has_model_defaults: bool = False
    tags: Mapping[str, str] | None = None
    description: str | None = None
    user_properties: Mapping[str, Any] | None = None
    is_archived: bool | None = None
    echoes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> "JobRequest":
        """What can't be changed once this is a job, with all else left out."""
        return JobRequest(
            name=self.name,
            pipeline=replace(self.pipeline, name=""),
            inputs=self.inputs,
            component=self.component,
            commands=self.commands,
            destinations=self.destinations,
            sweep=self.sweep,
            experiment="",
            priority=self.priority,
            force_rerun=self.force_rerun,
            continue_on_step_failure=self.continue_on_step_failure,
            has_model_defaults=self.has_model_defaults,
        )

    @property
    def change(self) -> JobChange:
        """What asking again changes of the job that this has become."""
        return JobChange(self.display_name or None, self.description, self.tags, self.user_properties, self.is_archived)


def changed(job: Job, change: JobChange) -> Job:
    """Return a job with what is changed of it."""
    return replace(
        job,
        display_name=change.display_name or job.display_name,
        description=job.description if change.description is None else change.description,
        tags=job.tags if change.tags is None else change.tags,
        user_properties={**job.user_properties, **(change.user_properties or {})},
        is_archived=job.is_archived if change.is_archived is None else change.is_archived,
    )
