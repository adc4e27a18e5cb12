"""Tests of `mafunzo.entrypoints.azure.blob.routes`: Azure Storage's routes in this process, for an owner, a reader and signed addresses."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from tests.support.azure_bench import Bench, Client, azure_bench
from tests.support.rows_read import rows_read

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


def md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Return the status of a refusal and its name at Azure Storage, which stands in its header and in its XML."""
    code = answer.headers["x-ms-error-code"]
    if answer.content:
        assert ElementTree.fromstring(answer.content).findtext("Code") == code
    return answer.status_code, code


def names(answer: httpx.Response) -> list[str | None]:
    assert answer.status_code == 200, answer.text
    return [element.text for element in ElementTree.fromstring(answer.content).iter("Name")]


def test_a_blob_comes_back_with_all_that_was_said_of_it(bench: Bench) -> None:
    made = put(bench, x_ms_blob_content_type="text/plain", x_ms_meta_team="one")
    assert (made.status_code, made.headers["content-md5"]) == (201, md5(b"habari"))
    answer = ask(bench.owner, "GET", BLOB)
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (200, b"habari", made.headers["etag"])
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-ms-meta-team"] == "one"
    head = ask(bench.owner, "HEAD", BLOB)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "6")


def test_every_answer_has_an_id_and_echoes_the_clients(bench: Bench) -> None:
    answer = ask(bench.owner, "GET", BLOB, x_ms_client_request_id="mine")
    assert answer.headers["x-ms-client-request-id"] == "mine"
    assert len(answer.headers["x-ms-request-id"]) == 32
    assert answer.headers["x-ms-version"] == "2023-11-03"
    odd = ask(bench.owner, "GET", BLOB, x_ms_client_request_id="a b")
    assert "x-ms-client-request-id" not in odd.headers


@pytest.mark.parametrize(
    ("asked", "content", "told"),
    [
        pytest.param("bytes=1-2", b"ab", "bytes 1-2/6", id="a range"),
        pytest.param("bytes=4-", b"ri", "bytes 4-5/6", id="to the end"),
        pytest.param("bytes=4-99", b"ri", "bytes 4-5/6", id="beyond the end"),
    ],
)
def test_a_range_is_sent_alone_with_its_own_hash(asked: str, content: bytes, told: str, bench: Bench) -> None:
    put(bench)
    answer = ask(bench.owner, "GET", BLOB, x_ms_range=asked, x_ms_range_get_content_md5="true")
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, content, told)
    assert answer.headers["content-md5"] == md5(content)
    assert answer.headers["x-ms-blob-content-md5"] == md5(b"habari")


def test_a_range_behind_the_end_is_refused_with_the_size(bench: Bench) -> None:
    put(bench)
    answer = ask(bench.owner, "GET", BLOB, x_ms_range="bytes=6-")
    assert refused(answer) == (416, "InvalidRange")
    assert answer.headers["content-range"] == "bytes */6"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({"x_ms_blob_type": "PageBlob"}, 400, "UnsupportedHeader", id="a page blob"),
        pytest.param({"x_ms_copy_source": "https://x"}, 400, "UnsupportedHeader", id="a copy"),
        pytest.param({"x_ms_tags": "a=b"}, 400, "UnsupportedHeader", id="tags"),
        pytest.param({"content_md5": md5(b"other")}, 400, "Md5Mismatch", id="bytes that changed on the way"),
        pytest.param({"if_match": '"other"'}, 412, "ConditionNotMet", id="a blob that isn't there yet"),
    ],
)
def test_a_write_that_cannot_be_is_refused_and_nothing_stored(
    headers: dict[str, str], status: int, code: str, bench: Bench
) -> None:
    answer = ask(bench.owner, "PUT", BLOB, b"habari", **({"x_ms_blob_type": "BlockBlob"} | headers))
    assert refused(answer) == (status, code)
    assert refused(ask(bench.owner, "GET", BLOB)) == (404, "BlobNotFound")


def test_what_the_client_has_already_is_not_sent_or_written_over(bench: Bench) -> None:
    etag = put(bench).headers["etag"]
    assert refused(ask(bench.owner, "GET", BLOB, if_none_match=etag)) == (304, "ConditionNotMet")
    assert refused(ask(bench.owner, "GET", BLOB, if_match='"other"')) == (412, "ConditionNotMet")
    assert refused(put(bench, b"new", if_none_match="*")) == (409, "BlobAlreadyExists")
    assert put(bench, b"new", if_match=etag).status_code == 201
    assert ask(bench.owner, "GET", BLOB).content == b"new"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        pytest.param(f"{BOX}/none", 404, "BlobNotFound", id="no blob"),
        pytest.param(f"{BOX}/folder/", 404, "BlobNotFound", id="a folder is none"),
        pytest.param(f"{ROOT}/nothing/x", 404, "ContainerNotFound", id="no container"),
        pytest.param(f"{ROOT}/Box/x", 400, "InvalidResourceName", id="no container's name"),
        pytest.param(f"{BOX}/a%2Fb.txt", 400, "InvalidUri", id="a hidden slash"),
        pytest.param(f"{BLOB}?comp=lease", 400, "UnsupportedHeader", id="a lease"),
    ],
)
def test_what_cannot_be_read_is_refused_by_azures_name(path: str, status: int, code: str, bench: Bench) -> None:
    put(bench)
    assert refused(ask(bench.owner, "GET", path)) == (status, code)
    assert ask(bench.owner, "HEAD", path).content == b""


def test_what_is_said_of_a_blob_is_changed_without_its_bytes(bench: Bench) -> None:
    put(bench, x_ms_meta_a="1")
    assert ask(bench.owner, "PUT", f"{BLOB}?comp=metadata", x_ms_meta_b="2").status_code == 200
    assert ask(bench.owner, "PUT", f"{BLOB}?comp=properties", x_ms_blob_content_type="text/csv").status_code == 200
    answer = ask(bench.owner, "GET", BLOB)
    assert (answer.content, answer.headers["x-ms-meta-b"]) == (b"habari", "2")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "x-ms-meta-a" not in answer.headers


def block(number: int) -> str:
    return base64.b64encode(str(number).encode()).decode()


def test_blocks_become_a_blob_in_the_order_of_their_list(bench: Bench) -> None:
    for number, body in ((1, b"one "), (2, b"two ")):
        assert ask(bench.owner, "PUT", f"{BLOB}?comp=block&blockid={block(number)}", body).status_code == 201
    assert refused(ask(bench.owner, "GET", BLOB)) == (404, "BlobNotFound")
    waiting = ask(bench.owner, "GET", f"{BLOB}?comp=blocklist&blocklisttype=uncommitted")
    assert names(waiting) == [block(1), block(2)]
    uses = f"<BlockList><Latest>{block(2)}</Latest><Latest>{block(1)}</Latest></BlockList>".encode()
    assert ask(bench.owner, "PUT", f"{BLOB}?comp=blocklist", uses).status_code == 201
    assert ask(bench.owner, "GET", BLOB).content == b"two one "
    assert names(ask(bench.owner, "GET", f"{BLOB}?comp=blocklist")) == [block(2), block(1)]


@pytest.mark.parametrize("id", ["", "!", base64.b64encode(b"x" * 65).decode()], ids=["none", "no base64", "too long"])
def test_a_block_needs_a_name_in_base64(id: str, bench: Bench) -> None:
    answer = ask(bench.owner, "PUT", f"{BLOB}?comp=block&blockid={id}", b"x")
    assert refused(answer) == (400, "InvalidQueryParameterValue")


def test_a_list_with_a_block_that_is_not_there_is_refused(bench: Bench) -> None:
    uses = f"<BlockList><Latest>{block(1)}</Latest></BlockList>".encode()
    assert refused(ask(bench.owner, "PUT", f"{BLOB}?comp=blocklist", uses)) == (400, "InvalidBlockList")


def test_blobs_are_listed_by_prefix_folder_and_page(bench: Bench) -> None:
    for name in ("a/1", "a/2", "b"):
        put(bench, path=f"{BOX}/{name}")
    listing = f"{BOX}?restype=container&comp=list"
    assert names(ask(bench.owner, "GET", listing)) == ["a/1", "a/2", "b"]
    assert names(ask(bench.owner, "GET", f"{listing}&prefix=a/")) == ["a/1", "a/2"]
    assert sorted(map(str, names(ask(bench.owner, "GET", f"{listing}&delimiter=/")))) == ["a/", "b"]
    first = ask(bench.owner, "GET", f"{listing}&maxresults=2")
    marker = ElementTree.fromstring(first.content).findtext("NextMarker")
    assert names(first) == ["a/1", "a/2"]
    assert names(ask(bench.owner, "GET", f"{listing}&maxresults=2&marker={marker}")) == ["b"]
    answer = ask(bench.owner, "GET", f"{listing}&maxresults=0")
    assert refused(answer) == (400, "OutOfRangeQueryParameterValue")


def test_blobs_and_containers_are_read_a_page_at_a_time(bench: Bench) -> None:
    for number in range(30):
        put(bench, path=f"{BOX}/d/{number:02}")
        bench.workspace.blobs.create_container(f"more-{number:02}")
    listing, seen, marker = f"{BOX}?restype=container&comp=list&maxresults=4", list[str | None](), ""
    while True:
        with rows_read() as rows:
            page = ask(bench.owner, "GET", f"{listing}&marker={marker}")
        assert rows["blob"] <= 5
        seen += names(page)
        if not (marker := ElementTree.fromstring(page.content).findtext("NextMarker") or ""):
            break
    assert seen == [f"d/{number:02}" for number in range(30)]
    with rows_read() as rows:
        first = ask(bench.owner, "GET", f"{ROOT}/?comp=list&prefix=more-&maxresults=2")
    assert names(first) == ["more-00", "more-01"] and rows["container"] <= 3
    last = ask(bench.owner, "GET", f"{ROOT}/?comp=list&prefix=more-&marker=more-28")
    assert names(last) == ["more-29"] and not ElementTree.fromstring(last.content).findtext("NextMarker")


def test_a_block_list_reads_its_own_blob_alone(bench: Bench) -> None:
    for number in range(5):
        put(bench, path=f"{BLOB}/{number}")
    ask(bench.owner, "PUT", f"{BLOB}?comp=block&blockid={block(1)}", b"hello")
    with rows_read() as rows:
        assert ask(bench.owner, "GET", f"{BLOB}?comp=blocklist&blocklisttype=all").status_code == 200
    assert rows["blob"] <= 1


def test_a_blob_is_deleted(bench: Bench) -> None:
    put(bench)
    assert ask(bench.owner, "DELETE", BLOB).status_code == 202
    assert refused(ask(bench.owner, "DELETE", BLOB)) == (404, "BlobNotFound")


def test_containers_are_made_listed_shown_and_deleted_by_an_owner(bench: Bench) -> None:
    made = ask(bench.owner, "PUT", f"{ROOT}/second?restype=container", x_ms_meta_a="1")
    assert made.status_code == 201
    assert "second" in names(ask(bench.owner, "GET", f"{ROOT}/?comp=list"))
    shown = ask(bench.owner, "GET", f"{ROOT}/second?restype=container")
    assert (shown.headers["x-ms-meta-a"], shown.headers["etag"]) == ("1", made.headers["etag"])
    assert refused(ask(bench.owner, "PUT", f"{ROOT}/second?restype=container")) == (409, "ContainerAlreadyExists")
    assert ask(bench.owner, "DELETE", f"{ROOT}/second?restype=container").status_code == 202
    assert refused(ask(bench.owner, "GET", f"{ROOT}/second?restype=container")) == (404, "ContainerNotFound")


def test_the_workspaces_own_container_is_not_deleted(bench: Bench) -> None:
    bench.workspace.blobs.ensure_container("azureml-blobstore")
    answer = ask(bench.owner, "DELETE", f"{ROOT}/azureml-blobstore?restype=container")
    assert refused(answer) == (400, "UnsupportedHeader")
    assert "is the workspace's own, and can't be deleted" in answer.text


def test_a_method_that_storage_does_not_know_is_refused(bench: Bench) -> None:
    assert refused(ask(bench.owner, "PATCH", BLOB))[1] == "UnsupportedHttpVerb"
