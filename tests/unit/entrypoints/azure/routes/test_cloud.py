"""The cloud's metadata, and tokens of the managed identity endpoint."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.azure_bench import BASE, Bench, azure_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


def test_the_cloud_is_described_to_everybody(bench: Bench) -> None:
    (cloud,) = bench.stranger.get("/metadata/endpoints")
    assert (cloud["resourceManager"], cloud["authentication"]["audiences"]) == (BASE, [BASE])
    assert bench.stranger.get("/discovery")["history"] == BASE


def test_a_token_is_given_for_the_home_s_secret(bench: Bench) -> None:
    http = bench.stranger.http
    secret = {"x-identity-header": bench.identity.header}
    answer = http.get(f"/msi/token?resource={BASE}", headers=secret).json()
    assert (answer["resource"], answer["token_type"]) == (BASE, "Bearer")
    assert bench.identity.check_token(answer["access_token"], frozenset({BASE})) == bench.identity.owner
    assert http.get("/msi/token", headers=secret).status_code == 400
    assert http.get(f"/msi/token?resource={BASE}", headers={"x-identity-header": "wrong"}).status_code == 401
