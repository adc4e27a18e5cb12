"""Tests of `mafunzo.entities.asset`: where an asset's files are shown, and which version is the next."""

from typing import Any

import pytest

from mafunzo.entities.asset import (
    REGISTRY_SCOPE,
    WORKSPACE_SCOPE,
    Asset,
    AssetKey,
    AssetType,
    FolderType,
    data_path,
    home_path,
    next_version,
)

UPLOADED = {"source": {"datastore": "d", "path": "up"}}


@pytest.mark.parametrize(
    ("scope", "type", "properties", "path"),
    [
        pytest.param(WORKSPACE_SCOPE, "model", {}, "models/a/1/model", id="a job's model"),
        pytest.param(WORKSPACE_SCOPE, "model", UPLOADED, "", id="a model that was uploaded"),
        pytest.param(REGISTRY_SCOPE, "model", UPLOADED, "models/a/1/model", id="a shared model"),
        pytest.param(WORKSPACE_SCOPE, "data", {"shown_at": "assets/x"}, "assets/x", id="data that a step wrote"),
        pytest.param(WORKSPACE_SCOPE, "data", UPLOADED, "", id="data that was uploaded"),
    ],
)
def test_files_are_shown_in_the_home_unless_they_were_uploaded_there(
    scope: str, type: str, properties: dict[str, Any], path: str
) -> None:
    asset = Asset(AssetKey(scope, AssetType(type), "a", "1"), FolderType.URI_FOLDER, properties=properties)
    assert home_path(asset) == path


def test_data_of_a_step_is_shown_under_its_name_and_version() -> None:
    key = AssetKey(WORKSPACE_SCOPE, AssetType.DATA, "texts", "2")
    assert data_path(key, "rows.csv") == "assets/data/texts/2/rows.csv"


@pytest.mark.parametrize(
    ("versions", "following"),
    [([], "1"), (["1", "2"], "3"), (["10", "9"], "11"), (["spring"], "1"), (["spring", "4"], "5")],
)
def test_the_next_version_is_one_above_the_highest_number(versions: list[str], following: str) -> None:
    assert next_version(versions) == following
