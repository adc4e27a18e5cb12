"""Blob Storage's names, headers and codes, and its XML to and fro."""

from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import pytest

from mafunzo.entities.blob import Blob, Block, BlockUse, Container
from mafunzo.entrypoints.azure.wire import blob as wire
from mafunzo.entrypoints.azure.wire.blob import BlobRefused
from mafunzo.errors import Conflict, MafunzoError, NotFound, NotSupported, StorageFull, Unauthorized

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DATE = "Fri, 02 Jan 2026 03:04:05 GMT"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        pytest.param(BlobRefused("x", reason="ConditionNotMet"), 412, "ConditionNotMet", id="a condition"),
        pytest.param(BlobRefused("x", reason="NotModified"), 304, "ConditionNotMet", id="known already"),
        pytest.param(BlobRefused("x", reason="InvalidUri"), 400, "InvalidUri", id="a reason of no status"),
        pytest.param(NotFound("x"), 404, "BlobNotFound", id="not there"),
        pytest.param(Conflict("x"), 409, "ContainerAlreadyExists", id="there already"),
        pytest.param(Unauthorized("x"), 403, "AuthenticationFailed", id="not signed"),
        pytest.param(NotSupported("x"), 400, "UnsupportedHeader", id="not supported"),
        pytest.param(StorageFull("x"), 507, "InternalError", id="no name of its own"),
    ],
)
def test_an_error_has_azure_storage_s_name_and_status(error: MafunzoError, status: int, code: str) -> None:
    assert wire.refusal(error) == (status, code)


@pytest.mark.parametrize("name", ["box", "a-b-3", "x" * 63])
def test_a_container_s_name_is_taken(name: str) -> None:
    wire.check_container_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "OutOfRangeInput") for name in ("ab", "x" * 64)),
        *((name, "InvalidResourceName") for name in ("Box", "a--b", "-ab", "a_b")),
    ],
)
def test_a_container_s_name_is_refused(name: str, reason: str) -> None:
    with pytest.raises(BlobRefused) as refused:
        wire.check_container_name(name)
    assert refused.value.reason == reason


@pytest.mark.parametrize("name", ["", "a//b", "../a", "a/./b", "a\\b", "a\x00b", "x" * 1025])
def test_a_name_that_is_no_path_of_files_is_no_blob_s(name: str) -> None:
    with pytest.raises(BlobRefused):
        wire.check_blob_name(name)
    wire.check_blob_name("a/b c/ü.txt")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [({"x-ms-meta-a-b": "1"}, "InvalidMetadata"), ({"x-ms-meta-a": "x" * 9000}, "MetadataTooLarge")],
)
def test_metadata_that_cannot_be_kept_is_refused(headers: dict[str, str], reason: str) -> None:
    with pytest.raises(BlobRefused) as refused:
        wire.metadata_from_headers(headers)
    assert refused.value.reason == reason
    assert wire.metadata_from_headers({"x-ms-meta-a": "1", "x-ms-version": "2"}) == {"a": "1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("bytes=0-3", (0, 3)), ("bytes=4-", (4, 9)), ("bytes=4-99", (4, 9)), ("", None)],
)
def test_a_range_ends_with_the_blob(text: str, expected: Any) -> None:
    assert wire.range_from_headers({"range": "bytes=1-1", "x-ms-range": text} if text else {}, 10) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [("bytes=3-1", "InvalidHeaderValue"), ("lines=1-2", "InvalidHeaderValue"), ("bytes=10-", "InvalidRange")],
)
def test_a_range_that_cannot_be_sent_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BlobRefused) as refused:
        wire.range_from_headers({"range": text}, 10)
    assert refused.value.reason == reason


def test_conditions_are_read_with_every_spelling_of_an_etag() -> None:
    condition = wire.condition_from_headers({"if-match": '"a", W/"b"', "if-modified-since": DATE})
    assert (condition.match, condition.modified_since) == (frozenset({"a", "b"}), AT)
    with pytest.raises(BlobRefused, match="no date of HTTP's"):
        wire.condition_from_headers({"if-modified-since": "yesterday"})
    with pytest.raises(NotSupported, match="blobs have neither tags nor leases here"):
        wire.condition_from_headers({"x-ms-lease-id": "1"})


def test_a_blob_and_a_container_come_back_with_all_that_was_said_of_them() -> None:
    settings = wire.settings_from_headers({"x-ms-blob-content-language": "sw", "x-ms-blob-cache-control": ""})
    blob = Blob("box", "a", "sha256:0", 3, '"1"', "text/plain", {"team": "a"}, AT, settings)
    headers = wire.blob_headers(blob)
    assert (headers["content-type"], headers["content-language"], headers["x-ms-meta-team"]) == (
        "text/plain",
        "sw",
        "a",
    )
    assert (headers["last-modified"], headers["x-ms-creation-time"], headers["etag"]) == (DATE, DATE, '"1"')
    assert wire.written_headers(blob) == {"etag": '"1"', "last-modified": DATE}
    assert wire.container_headers(Container("box", '"2"', {"x": "y"}, AT))["x-ms-meta-x"] == "y"


# XML

BLOBS = [
    Blob("box", name, "sha256:0", 3, '"1"', metadata={"team": "a&b"}, modified_at=AT)
    for name in ("a", "d/1", "d/2", "e")
]


def names(request: wire.ListRequest) -> tuple[list[str], str]:
    page = wire.page_of([blob for blob in BLOBS if blob.name.startswith(request.prefix)], request)
    return [entry if isinstance(entry, str) else entry.name for entry in page.entries], page.next_marker


@pytest.mark.parametrize(
    ("request_", "entries", "marker"),
    [
        pytest.param(wire.ListRequest(), ["a", "d/1", "d/2", "e"], "", id="all"),
        pytest.param(wire.ListRequest(size=2), ["a", "d/1"], "d/1", id="a page"),
        pytest.param(wire.ListRequest(marker="d/1"), ["d/2", "e"], "", id="the next one"),
        pytest.param(wire.ListRequest(delimiter="/"), ["a", "d/", "e"], "", id="folders"),
        pytest.param(wire.ListRequest(delimiter="/", size=2), ["a", "d/"], "d/", id="a page of folders"),
        pytest.param(wire.ListRequest(prefix="d/", delimiter="/"), ["d/1", "d/2"], "", id="in a folder"),
    ],
)
def test_a_list_comes_in_pages_and_folds_folders(request_: wire.ListRequest, entries: list[str], marker: str) -> None:
    assert names(request_) == (entries, marker)


def test_blobs_are_listed_with_their_properties_and_metadata() -> None:
    page = wire.page_of(BLOBS, wire.ListRequest(delimiter="/"))
    request = wire.ListRequest(prefix="<", with_metadata=True)
    root = ElementTree.fromstring(wire.blobs_xml("https://here", "box", request, page))
    assert (root.findtext("Prefix"), root.findtext("MaxResults"), root.findtext("NextMarker")) == ("<", "5000", "")
    first = root.find("Blobs/Blob")
    assert first is not None
    assert (first.findtext("Name"), first.findtext("Properties/Content-Length")) == ("a", "3")
    assert first.findtext("Metadata/team") == "a&b"
    assert root.findtext("Blobs/BlobPrefix/Name") == "d/"


def test_containers_have_metadata_where_it_is_asked_for() -> None:
    containers = [Container("box", '"1"', {"a": "b"}, AT)]
    plain, full = (
        ElementTree.fromstring(wire.containers_xml("https://here", containers, with_metadata))
        for with_metadata in (False, True)
    )
    assert [root.findtext("Containers/Container/Name") for root in (plain, full)] == ["box", "box"]
    assert [root.findtext("Containers/Container/Metadata/a") for root in (plain, full)] == [None, "b"]


def test_a_block_list_leaves_out_what_is_not_asked_for() -> None:
    root = ElementTree.fromstring(wire.block_list_xml([Block("QQ==", 3)], None))
    assert (root.findtext("CommittedBlocks/Block/Size"), root.find("UncommittedBlocks")) == ("3", None)
    assert ElementTree.fromstring(wire.block_list_xml(None, [])).find("UncommittedBlocks") is not None


def test_the_blocks_of_a_list_say_where_they_are_looked_for() -> None:
    body = b"<BlockList><Latest> QQ== </Latest><Committed>Qg==</Committed><Uncommitted>Qw==</Uncommitted></BlockList>"
    assert wire.block_uses_from_xml(body) == [
        BlockUse("QQ==", True, True),
        BlockUse("Qg==", False, True),
        BlockUse("Qw==", True, False),
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"<BlockList>", "InvalidXmlDocument", id="cut off"),
        pytest.param(b"\xff", "InvalidXmlDocument", id="no text"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY b "c">]><BlockList/>', "InvalidXmlDocument", id="a document type"),
        pytest.param(b"<BlockList><Oldest>QQ==</Oldest></BlockList>", "InvalidXmlNodeValue", id="another element"),
    ],
)
def test_what_is_no_block_list_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(BlobRefused) as refused:
        wire.block_uses_from_xml(body)
    assert refused.value.reason == reason


def test_an_error_is_xml_whatever_its_words_are() -> None:
    root = ElementTree.fromstring(wire.error_xml("InvalidInput", "a <b> \x00 c"))
    assert (root.findtext("Code"), root.findtext("Message")) == ("InvalidInput", "a <b> ? c")
