"""The keys and values that a file of `az ml` may have."""

import pytest

from mafunzo.entrypoints.azure.files.keys import faults_of, mended
from mafunzo.entrypoints.azure.files.kind import FileKind


@pytest.mark.parametrize(
    ("kind", "document", "told"),
    [
        (FileKind.MODEL, {"name": "a"}, "path: missing."),
        (FileKind.MODEL, {"name": "a", "path": "b", "tags": "c"}, "tags: 'c', expected a mapping."),
        (FileKind.JOB, {"command": "a", "comand": "b"}, "comand: unknown key. Did you mean command?"),
        (FileKind.JOB, {"command": "a", "services": {}}, "services: services to talk to aren't run beside a job here."),
        (FileKind.JOB, {"command": "a", "limits": {"timeot": 3}}, "limits.timeot: unknown key. Did you mean timeout?"),
        (FileKind.JOB, {"command": "a", "inputs": {"b": [1]}}, "inputs.b: a list, expected a mapping."),
        (FileKind.JOB, {"type": "spark"}, "type: 'spark', expected command or pipeline or sweep. Spark isn't run here"),
        (FileKind.JOB, {"type": "sweep", "trial": {"comand": "a"}}, "trial.comand: unknown key. Did you mean command?"),
        (FileKind.JOB, {"type": "sweep", "trial": {"command": "a"}}, "search_space: missing."),
        (FileKind.COMPUTE, {"name": "a", "size": {}}, "size: a mapping, expected a text or a number."),
        (FileKind.COMPUTE, {"max_instances": True}, "max_instances: 'True', expected a whole number, 0 or more."),
        (FileKind.COMPUTE, {"min_instances": -1}, "min_instances: '-1', expected a whole number, 0 or more."),
        (
            FileKind.JOB,
            {"resources": {"instance_count": "a"}},
            "resources.instance_count: 'a', expected a whole number",
        ),
        (FileKind.JOB, {"limits": {"timeout": 1.5}}, "limits.timeout: '1.5', expected whole seconds, or an ISO 8601"),
        (
            FileKind.JOB,
            {"type": "sweep", "early_termination": {"type": "bandit", "slack_factor": "a"}},
            "early_termination.slack_factor: 'a', expected a number.",
        ),
        (
            FileKind.JOB,
            {"type": "pipeline", "jobs": {"a": {"type": "spark", "entry": {}}}},
            "jobs.a: a node of the type spark, expected command, pipeline or sweep. Spark isn't run here",
        ),
        (FileKind.JOB, {"type": "pipeline", "jobs": {"a": {}}}, "jobs.a: it has neither component nor command"),
        (FileKind.JOB, {"type": "pipeline", "jobs": {"a": {"type": "sweep"}}}, "jobs.a.trial: missing."),
        (
            FileKind.DEPLOYMENT,
            {"scale_settings": {"max_instance": 3}},
            "scale_settings.max_instance: unknown key. Did you mean max_instances?",
        ),
        (FileKind.DEPLOYMENT, {"scale_settings": {"type": "hourly"}}, "scale_settings.type: 'hourly', expected"),
        (
            FileKind.JOB,
            {"type": "pipeline", "jobs": {"a": {"type": "sweep", "limits": {"max_trials": 3}}}},
            "jobs.a.limits.max_trials: unknown key. Did you mean",
        ),
    ],
)
def test_a_fault_names_its_key(kind, document, told):
    assert any(fault.text.startswith(told) for fault in faults_of(kind, document))


def test_the_rest_of_a_file_with_faults_can_be_read():
    document = {"name": "a", "max_instances": "b", "colour": "red", "tags": {"team": "c"}}
    faults = faults_of(FileKind.COMPUTE, document)
    assert all(fault.is_harmless for fault in faults)
    assert mended(document, faults) == {"name": "a", "max_instances": 1, "size": "local", "tags": {"team": "c"}}


@pytest.mark.parametrize(
    ("document", "path", "stand_in"),
    [
        pytest.param({"name": "a", "path": "b", "type": "pickle"}, ("type",), "mlflow_model", id="one of a few"),
        pytest.param({"path": "b"}, ("name",), "unknown", id="a missing name"),
        pytest.param({"name": "a", "path": "b", "tags": "c"}, ("tags",), None, id="left out"),
    ],
)
def test_a_harmless_fault_has_what_stands_in(document, path, stand_in):
    (fault,) = faults_of(FileKind.MODEL, document)
    assert (fault.path, fault.is_harmless, fault.stand_in) == (path, True, stand_in)


def test_a_mapping_where_another_is_expected_ends_the_reading():
    (fault,) = faults_of(FileKind.JOB, {"command": "a", "resources": "many"})
    assert (fault.text, fault.is_harmless) == ("resources: 'many', expected a mapping.", False)


def test_what_stands_within_another_file_needs_no_name():
    assert [fault.text for fault in faults_of(FileKind.ENVIRONMENT, {"image": "x"})] == ["name: missing."]
    assert faults_of(FileKind.ENVIRONMENT, {"image": "x"}, is_inline=True) == []
