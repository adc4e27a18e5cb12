"""Who may do what with blobs: by a token, the account's key or a signed address."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mafunzo.entrypoints.azure.sas import sas_of
from tests.support.azure_bench import Bench, Client, azure_bench

ROOT = "/mafunzo.blob.local"
BOX = f"{ROOT}/box"
BLOB = f"{BOX}/a/b.txt"
BLOCK_BLOB = {"x-ms-blob-type": "BlockBlob"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        opened.workspace.blobs.create_container("box")
        yield opened


def ask(client: Client, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.http.request(method, path, content=body, headers=named)


def put(bench: Bench, body: bytes = b"habari", path: str = BLOB, **headers: str) -> httpx.Response:
    return ask(bench.owner, "PUT", path, body, **(BLOCK_BLOB | headers))


SIGNED: list[Any] = [
    pytest.param("r", "GET", BLOB, b"", 200, id="reading may read"),
    pytest.param("r", "PUT", BLOB, b"new", 403, id="reading may not write"),
    pytest.param("r", "GET", f"{BOX}?restype=container&comp=list", b"", 403, id="reading may not list"),
    pytest.param("l", "GET", f"{BOX}?restype=container&comp=list", b"", 200, id="listing may list"),
    pytest.param("c", "PUT", f"{BOX}/new", b"new", 201, id="creating may make"),
    pytest.param("c", "PUT", BLOB, b"new", 403, id="creating may not write over"),
    pytest.param("w", "PUT", BLOB, b"new", 201, id="writing may write over"),
    pytest.param("w", "DELETE", BLOB, b"", 403, id="writing may not delete"),
    pytest.param("d", "DELETE", BLOB, b"", 202, id="deleting may delete"),
    pytest.param("rcwdl", "DELETE", f"{BOX}?restype=container", b"", 403, id="no address deletes a container"),
]


def test_whoever_signs_nothing_is_refused(bench: Bench) -> None:
    put(bench)
    answer = ask(bench.stranger, "GET", BLOB)
    assert answer.status_code in (401, 403)
    assert "neither with the account's key nor by its address" in answer.text
    answer = ask(bench.stranger, "GET", BLOB, authorization="Basic abc")
    assert "'Authorization: Basic' doesn't open blobs" in answer.text


@pytest.mark.parametrize(("permissions", "method", "path", "body", "status"), SIGNED)
def test_a_signed_address_allows_what_it_names(
    permissions: str, method: str, path: str, body: bytes, status: int, bench: Bench
) -> None:
    put(bench)
    query = sas_of(bench.identity, bench.identity.owner).sign("box", permissions)
    signed = f"{path}{'&' if '?' in path else '?'}{query}"
    assert ask(bench.stranger, method, signed, body, **BLOCK_BLOB).status_code == status


def test_a_reader_reads_and_lists_only(bench: Bench) -> None:
    put(bench)
    reader = bench.user("amina", "reader")
    assert ask(reader, "GET", BLOB).content == b"habari"
    assert code_of(ask(reader, "PUT", BLOB, b"new", **BLOCK_BLOB)) == (403, "AuthorizationPermissionMismatch")
    assert code_of(ask(reader, "PUT", f"{ROOT}/mine?restype=container"))[0] == 403
    assert ask(bench.owner, "GET", BLOB).content == b"habari"


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.headers["x-ms-error-code"]
