"""What addresses in the rows of version 0.1.0 name."""

from typing import Any

import pytest

from mafunzo.control.store.migration_5.address import reference, source

GROUP = "/subscriptions/0/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
ASSET: dict[str, Any] = {"name": "m", "version": "2", "label": None, "registry": None, "type": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("azureml:m:2", ASSET, id="short"),
        pytest.param("m@latest", ASSET | {"version": None}, id="the newest"),
        pytest.param("m@live", ASSET | {"version": None, "label": "live"}, id="a label"),
        pytest.param(f"azureml:{GROUP}/models/m/versions/2", ASSET | {"type": "model"}, id="an id"),
        pytest.param(
            "azureml://registries/r/codes/m/versions/2", ASSET | {"registry": "r", "type": "code"}, id="of a registry"
        ),
        pytest.param(f"{GROUP}/schedules/m/versions/2", None, id="another kind of thing"),
        pytest.param(
            "azureml://jobs/j/outputs/o/paths/a/b", {"job": "j", "output": "o", "path": "a/b"}, id="a job's output"
        ),
        pytest.param("azureml://datastores/d/paths/a/b", {"datastore": "d", "path": "a/b"}, id="a path"),
        pytest.param("https://host/a.csv", {"url": "https://host/a.csv"}, id="a file of the web"),
        pytest.param("https://host/", None, id="no file"),
    ],
)
def test_an_address_names_one_thing(text: str, expected: dict[str, Any] | None) -> None:
    assert reference(text) == expected


def test_whatever_else_fed_an_asset_came_from_the_web() -> None:
    assert source("file:///x") == {"url": "file:///x"}
