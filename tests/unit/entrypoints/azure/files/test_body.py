"""What a file of `az ml` describes, as the body of the Azure SDK's PUT."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import yaml

from mafunzo.entities.scale import Scale
from mafunzo.entrypoints.azure.files.body import body_of
from mafunzo.entrypoints.azure.files.job import Local
from mafunzo.entrypoints.azure.files.kind import FileKind
from mafunzo.entrypoints.azure.wire.batch import batch_deployment_from_body, batch_endpoint_from_body
from mafunzo.entrypoints.azure.wire.compute import compute_from_body
from mafunzo.entrypoints.azure.wire.endpoint import deployment_from_body, endpoint_from_body
from mafunzo.errors import InvalidFile


class Folder:
    """Tells of each local thing what it was."""

    def uri(self, where: str, path: str, kind: str) -> str:
        return f"uploaded {kind} {path} of {where}"

    def code(self, where: str, path: str | None, includes: Sequence[str] = ()) -> str:
        return f"code {path} of {where}"

    def inputs(self, where: str, component: str) -> None:
        return None

    def note(self, where: str, text: str) -> None:
        raise AssertionError(text)

    def model(self, where: str, spec: dict[str, Any]) -> str:
        return f"azureml:{spec['name']}:1"

    def conda(self, where: str, path: str) -> dict[str, Any]:
        return {"dependencies": [path]}


def properties(kind: FileKind, **document: Any) -> dict[str, Any]:
    fields: dict[str, Any] = body_of(kind, document, cast(Local, Folder()))["properties"]
    return fields


@pytest.mark.parametrize(
    ("kind", "document", "fields"),
    [
        pytest.param(
            FileKind.MODEL,
            {"path": "./m"},
            {"modelType": "custom_model", "modelUri": "uploaded custom_model ./m of path"},
            id="a model",
        ),
        pytest.param(
            FileKind.DATA,
            {"path": "azureml://jobs/j/outputs/o", "type": "uri_file"},
            {"dataType": "uri_file", "dataUri": "azureml://jobs/j/outputs/o"},
            id="data elsewhere",
        ),
        pytest.param(FileKind.DATA, {"path": "d"}, {"dataUri": "uploaded uri_folder d of path"}, id="a folder of data"),
        pytest.param(FileKind.ENVIRONMENT, {"image": "x"}, {"image": "x"}, id="an image alone"),
    ],
)
def test_files_of_an_asset_are_uploaded_or_named(
    kind: FileKind, document: dict[str, Any], fields: dict[str, Any]
) -> None:
    body = properties(kind, tags={"a": "b"}, **document)
    assert fields.items() <= body.items()
    assert (body["tags"], body["isAnonymous"], body["isArchived"]) == ({"a": "b"}, False, False)


@pytest.mark.parametrize(
    ("conda", "content"),
    [("env.yml", {"dependencies": ["env.yml"]}), ({"dependencies": ["pip"]}, {"dependencies": ["pip"]})],
    ids=["a file", "in place"],
)
def test_a_conda_file_comes_as_its_text(conda: Any, content: Any) -> None:
    assert yaml.safe_load(properties(FileKind.ENVIRONMENT, image="x", conda_file=conda)["condaFile"]) == content


def test_a_components_numbers_are_texts_and_its_code_is_uploaded() -> None:
    spec = properties(
        FileKind.COMPONENT,
        name="c",
        version=2,
        type="command",
        command="x",
        code="./src",
        outputs={"o": None},
        inputs={"n": {"type": "integer", "default": 3, "max": 5}},
    )["componentSpec"]
    assert (spec["version"], spec["code"], spec["outputs"]) == (
        "2",
        "code ./src of code",
        {"o": {"type": "uri_folder"}},
    )
    assert spec["inputs"] == {"n": {"type": "integer", "default": "3", "max": "5"}}


def test_a_compute_is_read_as_the_sdk_s_would_be() -> None:
    document = {"size": "local", "tier": "LowPriority", "max_instances": 2, "idle_time_before_scale_down": 60}
    request = compute_from_body("c", body_of(FileKind.COMPUTE, document, cast(Local, Folder())))
    assert (request.size, request.tier, request.max_instances, request.idle_s) == ("local", "low_priority", 2, 60)


def test_an_endpoint_is_read_as_the_sdk_s_would_be() -> None:
    document = {"auth_mode": "key", "traffic": {"blue": 100}, "mirror_traffic": {"green": 10}, "tags": {"a": "b"}}
    request = endpoint_from_body("e", body_of(FileKind.ENDPOINT, document, cast(Local, Folder())))
    assert (request.traffic_percent, request.tags) == ({"blue": 100}, {"a": "b"})
    assert request.mirror_percent == {"green": 10}


def test_a_deployment_is_read_as_the_sdk_s_would_be() -> None:
    document = {
        "type": "managed",
        "model": {"name": "m", "path": "./m"},
        "instance_count": 1,
        "request_settings": {"request_timeout_ms": 1500},
        "liveness_probe": {"initial_delay": 900, "period": 10, "failure_threshold": 90},
    }
    request = deployment_from_body("d", body_of(FileKind.DEPLOYMENT, document, cast(Local, Folder())))
    assert (request.model.name, request.request_timeout_s, request.initial_delay_s) == ("m", 1.5, 1800.0)


@pytest.mark.parametrize(
    ("document", "scale"),
    [
        pytest.param({"instance_count": 3}, Scale(3, 3), id="a number"),
        pytest.param({"scale_settings": {"type": "default"}, "instance_count": 2}, Scale(2, 2), id="default"),
        pytest.param(
            {
                "scale_settings": {
                    "type": "target_utilization",
                    "min_instances": 0,
                    "max_instances": 3,
                    "polling_interval": 5,
                    "target_utilization_percentage": 60,
                }
            },
            Scale(0, 3, target_percent=60, polling_s=5),
            id="by load",
        ),
    ],
)
def test_the_number_of_workers_is_read_from_a_file(document: dict[str, Any], scale: Scale) -> None:
    body = body_of(FileKind.DEPLOYMENT, {"model": "azureml:m:1", **document}, cast(Local, Folder()))
    assert deployment_from_body("d", body).scale == scale


def test_a_batch_endpoint_is_read_as_the_sdk_s_would_be() -> None:
    document = {
        "auth_mode": "aad_token",
        "defaults": {"deployment_name": "blue"},
        "tags": {"a": "b"},
        "description": "d",
    }
    request = batch_endpoint_from_body("e", body_of(FileKind.BATCH_ENDPOINT, document, cast(Local, Folder())))
    assert (request.default_deployment, request.tags, request.description) == ("blue", {"a": "b"}, "d")


SETTINGS = {
    "mini_batch_size": 8,
    "max_concurrency_per_instance": 2,
    "error_threshold": -1,
    "output_file_name": "a.jsonl",
}


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(SETTINGS | {"resources": {"instance_count": 1}}, id="beside the other keys"),
        pytest.param({"settings": SETTINGS | {"instance_count": 1}}, id="below settings"),
    ],
)
def test_a_batch_deployment_is_read_as_the_sdk_s_would_be(document: dict[str, Any]) -> None:
    document = {"model": {"name": "m", "path": "./m"}, "compute": "azureml:local", **document}
    body = body_of(FileKind.BATCH_DEPLOYMENT, document, cast(Local, Folder()))
    request = batch_deployment_from_body("d", body)
    assert (request.model.name, request.compute) == ("m", "local")
    assert request.parameters == {"max_batch": 16, "error_threshold": -1, "output_file_name": "a.jsonl"}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        pytest.param(
            {"settings": {"mini_batch_size": 3}, "mini_batch_size": 3},
            "settings.mini_batch_size: mini_batch_size stands beside settings too",
            id="a setting",
        ),
        pytest.param(
            {"settings": {"instance_count": 1}, "resources": {"instance_count": 1}},
            "settings.instance_count: resources have one too",
            id="the count",
        ),
    ],
)
def test_a_setting_in_two_places_is_refused(document: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        body_of(FileKind.BATCH_DEPLOYMENT, {"model": "azureml:m:1", **document}, cast(Local, Folder()))
    assert refused.value.faults[0].startswith(fault)
