"""Blob Storage's XML, to and fro."""

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from mafunzo.entities.blob import Blob, Block, BlockUse, Container
from mafunzo.entrypoints.azure.wire import blob_xml
from mafunzo.entrypoints.azure.wire.blob import BlobRefused
from mafunzo.entrypoints.azure.wire.blob_xml import ListRequest, page_of

AT = datetime(2026, 1, 2, tzinfo=UTC)
BLOBS = [
    Blob("box", name, "sha256:0", 3, '"1"', metadata={"team": "a&b"}, modified_at=AT)
    for name in ("a", "d/1", "d/2", "e")
]


def names(request: ListRequest) -> tuple[list[str], str]:
    page = page_of([blob for blob in BLOBS if blob.name.startswith(request.prefix)], request)
    return [entry if isinstance(entry, str) else entry.name for entry in page.entries], page.next_marker


@pytest.mark.parametrize(
    ("request_", "entries", "marker"),
    [
        pytest.param(ListRequest(), ["a", "d/1", "d/2", "e"], "", id="all"),
        pytest.param(ListRequest(size=2), ["a", "d/1"], "d/1", id="a page"),
        pytest.param(ListRequest(marker="d/1"), ["d/2", "e"], "", id="the next one"),
        pytest.param(ListRequest(delimiter="/"), ["a", "d/", "e"], "", id="folders"),
        pytest.param(ListRequest(delimiter="/", size=2), ["a", "d/"], "d/", id="a page of folders"),
        pytest.param(ListRequest(prefix="d/", delimiter="/"), ["d/1", "d/2"], "", id="in a folder"),
    ],
)
def test_a_list_comes_in_pages_and_folds_folders(request_: ListRequest, entries: list[str], marker: str) -> None:
    assert names(request_) == (entries, marker)


def test_blobs_are_listed_with_their_properties_and_metadata() -> None:
    page = page_of(BLOBS, ListRequest(delimiter="/"))
    request = ListRequest(prefix="<", with_metadata=True)
    root = ElementTree.fromstring(blob_xml.blobs_xml("https://here", "box", request, page))
    assert (root.findtext("Prefix"), root.findtext("MaxResults"), root.findtext("NextMarker")) == ("<", "5000", "")
    first = root.find("Blobs/Blob")
    assert first is not None
    assert (first.findtext("Name"), first.findtext("Properties/Content-Length")) == ("a", "3")
    assert first.findtext("Metadata/team") == "a&b"
    assert root.findtext("Blobs/BlobPrefix/Name") == "d/"


def test_containers_have_metadata_where_it_is_asked_for() -> None:
    containers = [Container("box", '"1"', {"a": "b"}, AT)]
    plain, full = (
        ElementTree.fromstring(blob_xml.containers_xml("https://here", containers, with_metadata))
        for with_metadata in (False, True)
    )
    assert [root.findtext("Containers/Container/Name") for root in (plain, full)] == ["box", "box"]
    assert [root.findtext("Containers/Container/Metadata/a") for root in (plain, full)] == [None, "b"]


def test_a_block_list_leaves_out_what_is_not_asked_for() -> None:
    root = ElementTree.fromstring(blob_xml.block_list_xml([Block("QQ==", 3)], None))
    assert (root.findtext("CommittedBlocks/Block/Size"), root.find("UncommittedBlocks")) == ("3", None)
    assert ElementTree.fromstring(blob_xml.block_list_xml(None, [])).find("UncommittedBlocks") is not None


def test_the_blocks_of_a_list_say_where_they_are_looked_for() -> None:
    body = b"<BlockList><Latest> QQ== </Latest><Committed>Qg==</Committed><Uncommitted>Qw==</Uncommitted></BlockList>"
    assert blob_xml.block_uses_from_xml(body) == [
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
        blob_xml.block_uses_from_xml(body)
    assert refused.value.reason == reason


def test_an_error_is_xml_whatever_its_words_are() -> None:
    root = ElementTree.fromstring(blob_xml.error_xml("InvalidInput", "a <b> \x00 c"))
    assert (root.findtext("Code"), root.findtext("Message")) == ("InvalidInput", "a <b> ? c")
