"""Datastores over Azure's wire."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo.entrypoints.azure.sas import sas_of
from mafunzo.entrypoints.azure.wire.envelope import DATASTORES
from tests.support.azure_bench import Bench, azure_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


def test_the_datastores_are_listed_and_one_is_the_default(bench: Bench) -> None:
    found = bench.owner.get("datastores")["value"]
    assert {one["name"]: one["properties"]["containerName"] for one in found} == DATASTORES
    assert [one["properties"]["isDefault"] for one in found] == [True, False]
    (first, _) = found
    assert bench.owner.get("datastores/workspaceblobstore")["properties"] == first["properties"]


def test_a_datastore_that_is_not_there_is_named(bench: Bench) -> None:
    status, message = bench.owner.refusal("GET", "datastores/other")
    assert (status, "No datastore is called 'other'. There are: workspaceblobstore" in message) == (404, True)


def test_a_secret_is_the_caller_s_own(bench: Bench) -> None:
    path = "datastores/workspaceblobstore/listSecrets"
    key = bench.owner.ask("POST", path).json()
    assert key == {"secretsType": "AccountKey", "key": sas_of(bench.identity, bench.identity.owner).account_key}
    reader = bench.user("juma", "reader")
    assert reader.ask("POST", path).json()["key"] != key["key"]
    signature = reader.ask("POST", path, {"expirableSecret": True}).json()
    assert signature["secretsType"] == "Sas" and "sp=rl&" in f"{signature['sasToken']}&"
