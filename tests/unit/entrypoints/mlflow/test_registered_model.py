"""Models in MLflow's dialect."""

from datetime import UTC, datetime

import pytest

from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType, RegisteredModel
from mafunzo.entities.reference import AssetReference
from mafunzo.entrypoints.mlflow import registered_model as wire
from mafunzo.entrypoints.mlflow.registered_model import ArtifactSource, parse_source
from mafunzo.errors import Conflict, FailedError, InvalidParameter, NotFound, NotSupported, family

MADE = datetime(2026, 1, 1, tzinfo=UTC)


def version(number: str, **more: object) -> Asset:
    key = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, "chat", number)
    return Asset(key, FolderType.MLFLOW_MODEL, "sha256:1", created_at=MADE, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("models:/m-12ab", ArtifactSource("*/models/m-12ab/artifacts")),
        ("models:/m-12ab/sub", ArtifactSource("*/models/m-12ab/artifacts/sub")),
        ("models:/chat/3", AssetReference("chat", "3", None)),
        ("models:/chat@best", AssetReference("chat", None, "best")),
        ("runs:/r1/model", ArtifactSource("*/r1/artifacts/model")),
        ("mlflow-artifacts:/1/r1/artifacts/model", ArtifactSource("1/r1/artifacts/model")),
        (
            "http://127.0.0.1:8080/mlflow/api/2.0/mlflow-artifacts/artifacts/1/r1/artifacts/m",
            ArtifactSource("1/r1/artifacts/m"),
        ),
        ("runs:/r1/a*[b]", ArtifactSource("*/r1/artifacts/a[*][[]b]")),
    ],
)
def test_a_models_source_is_another_version_or_what_a_run_has_logged(source: str, expected: object) -> None:
    assert parse_source(source) == expected


@pytest.mark.parametrize(
    "source",
    ["file:///etc", "/etc", "s3://bucket/model", "runs:/r1/../../x", "mlflow-artifacts:/a//b", "models:/a/b/c"],
)
def test_a_source_elsewhere_is_refused(source: str) -> None:
    with pytest.raises(InvalidParameter, match=r"source|lies at"):
        parse_source(source)


def test_a_names_latest_version_is_the_newest_that_isnt_archived() -> None:
    versions = (version("3", is_archived=True), version("2"), version("1"))
    body = wire.registered_model_body(RegisteredModel("chat", labels={"best": "2"}, versions=versions))
    assert [found["version"] for found in body["latest_versions"]] == ["2"]
    assert body["latest_versions"][0]["aliases"] == ["best"]
    assert body["aliases"] == [{"alias": "best", "version": "2"}]
    assert wire.model_version_body(versions[0], {})["current_stage"] == "Archived"


def test_a_version_tells_the_run_of_the_job_that_made_it() -> None:
    body = wire.model_version_body(version("1", properties={"job": "job1", "job_output": "model"}), {})
    assert (body["run_id"], body["source"]) == ("job1", "azureml://jobs/job1/outputs/model")
    assert wire.model_version_body(version("1"), {})["source"] == "mlflow-artifacts:/registered-models/chat/1"


@pytest.mark.parametrize(
    ("error", "is_creation", "expected"),
    [
        (NotFound("x"), False, (404, "RESOURCE_DOES_NOT_EXIST")),
        (Conflict("x"), True, (400, "RESOURCE_ALREADY_EXISTS")),
        (Conflict("x"), False, (409, "RESOURCE_CONFLICT")),
        (NotSupported("x"), False, (400, "INVALID_PARAMETER_VALUE")),
        (FailedError("x"), False, (500, "INTERNAL_ERROR")),
    ],
)
def test_an_error_has_mlflows_code(error: Conflict, is_creation: bool, expected: tuple[int, str]) -> None:
    status, body = wire.error_body(error, is_creation)
    assert (status, body["error_code"], body["message"]) == (*expected, "x")


def test_every_error_has_a_status() -> None:
    assert all(wire.error_body(cls("x"), False)[0] >= 400 for cls in family())
