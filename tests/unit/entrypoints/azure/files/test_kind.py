"""Which kind of file of `az ml` a document is."""

import pytest

from mafunzo.entrypoints.azure.files.kind import FileKind, kind_of, with_type
from mafunzo.errors import InvalidFile, NotSupported

SCHEMA = "https://azuremlschemas.azureedge.net/latest/{}.schema.json"


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"$schema": SCHEMA.format("model")}, FileKind.MODEL),
        ({"$schema": SCHEMA.format("amlCompute")}, FileKind.COMPUTE),
        ({"$schema": SCHEMA.format("commandComponent")}, FileKind.COMPONENT),
        ({"$schema": SCHEMA.format("pipelineJob")}, FileKind.JOB),
        ({"$schema": SCHEMA.format("managedOnlineDeployment")}, FileKind.DEPLOYMENT),
        ({"name": "a", "type": "mlflow_model", "path": "x"}, FileKind.MODEL),
        ({"name": "a", "type": "uri_file", "path": "x"}, FileKind.DATA),
        ({"name": "a", "conda_file": "x"}, FileKind.ENVIRONMENT),
        ({"name": "a", "type": "amlcompute"}, FileKind.COMPUTE),
        ({"name": "a", "auth_mode": "key"}, FileKind.ENDPOINT),
        ({"name": "a", "endpoint_name": "b"}, FileKind.DEPLOYMENT),
        ({"$schema": SCHEMA.format("batchEndpoint")}, FileKind.BATCH_ENDPOINT),
        ({"$schema": SCHEMA.format("modelBatchDeployment"), "type": "model"}, FileKind.BATCH_DEPLOYMENT),
        ({"$schema": SCHEMA.format("batchDeployment")}, FileKind.BATCH_DEPLOYMENT),
        ({"name": "a", "defaults": {"deployment_name": "b"}}, FileKind.BATCH_ENDPOINT),
        ({"name": "a", "endpoint_name": "b", "type": "model"}, FileKind.BATCH_DEPLOYMENT),
        ({"name": "a", "endpoint_name": "b", "mini_batch_size": 3}, FileKind.BATCH_DEPLOYMENT),
        ({"name": "a", "version": 1, "command": "x"}, FileKind.COMPONENT),
        ({"command": "x", "inputs": {"a": {"type": "integer"}}}, FileKind.COMPONENT),
        ({"command": "x", "inputs": {"a": {"type": "uri_file", "path": "b"}}}, FileKind.JOB),
        ({"command": "x", "compute": "azureml:c"}, FileKind.JOB),
        ({"type": "pipeline", "jobs": {}, "settings": {}}, FileKind.JOB),
    ],
)
def test_a_file_is_known_by_its_schema_or_its_keys(document, kind):
    assert kind_of(document, "some.yml") is kind


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("pipelineComponentBatchDeployment", "A pipeline component isn't deployed here"),
        ("kubernetesOnlineEndpoint", "Kubernetes isn't used"),
        ("schedule", "Schedules aren't kept"),
        ("autoMLNLPTextClassificationJob", "AutoML isn't run"),
    ],
)
def test_what_does_not_run_here_is_refused_by_its_schema(schema, told):
    with pytest.raises(NotSupported, match=f"some.yml: {told}"):
        kind_of({"$schema": SCHEMA.format(schema)}, "some.yml")


def test_an_unknown_schema_is_named():
    with pytest.raises(InvalidFile, match=r"some.yml: \$schema is '.*/pie.schema.json', expected a file of one of"):
        kind_of({"$schema": SCHEMA.format("pie")}, "some.yml")


def test_the_type_that_a_schema_stands_for_need_not_be_written():
    assert with_type({"$schema": SCHEMA.format("pipelineJob")})["type"] == "pipeline"
    assert "type" not in with_type({"command": "x"})
