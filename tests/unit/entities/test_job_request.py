"""Tests of `mafunzo.entities.job_request`."""

from dataclasses import replace

from mafunzo.entities.component import Component
from mafunzo.entities.job import Job
from mafunzo.entities.job_request import JobChange, JobRequest, changed

REQUEST = JobRequest(
    "j",
    Component("shown as", "1", "pipeline"),
    {"x": "3"},
    display_name="shown as",
    experiment="main",
    tags={"a": "1"},
    description="about",
    user_properties={"mine": "1"},
)
JOB = Job("j", "j", "main", "c:1", tags={"b": "2"}, user_properties={"old": "1"})


def test_settings_are_what_cannot_be_changed_later() -> None:
    said_otherwise = replace(
        REQUEST,
        pipeline=replace(REQUEST.pipeline, name="other"),
        display_name="other",
        experiment="other",
        computes={"compute": "other"},
        tags={},
        description=None,
        user_properties=None,
        is_archived=True,
        echoes={"azure": {}},
    )
    assert said_otherwise.settings == REQUEST.settings
    assert replace(REQUEST, inputs={"x": "4"}).settings != REQUEST.settings
    assert replace(REQUEST, force_rerun=True).settings != REQUEST.settings


def test_asking_again_changes_what_is_said() -> None:
    job = changed(JOB, REQUEST.change)
    assert (job.display_name, job.description, job.tags) == ("shown as", "about", {"a": "1"})
    assert job.user_properties == {"old": "1", "mine": "1"} and not job.is_archived


def test_what_nothing_is_said_of_stays() -> None:
    silent = JobRequest("j", Component("", "1", "pipeline"))
    assert changed(JOB, silent.change) == JOB == changed(JOB, JobChange())
    assert changed(JOB, JobChange(is_archived=True)) == replace(JOB, is_archived=True)
