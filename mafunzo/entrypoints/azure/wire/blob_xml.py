"""Azure Blob Storage's XML: lists of blobs, containers and blocks, and errors."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from mafunzo.entities.blob import Blob, Block, BlockUse, Container
from mafunzo.entrypoints.azure.wire.blob import BlobRefused, blob_headers, container_headers

_XML = "<?xml version='1.0' encoding='utf-8'?>"
_ELEMENTS: Mapping[str, str] = {
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-length": "Content-Length",
    "content-md5": "Content-MD5",
    "content-type": "Content-Type",
    "etag": "Etag",
    "last-modified": "Last-Modified",
    "x-ms-blob-type": "BlobType",
    "x-ms-creation-time": "Creation-Time",
    "x-ms-lease-state": "LeaseState",
    "x-ms-lease-status": "LeaseStatus",
}
"""The response headers that a list has as XML elements, and the elements' names."""


@dataclass(frozen=True)
class ListRequest:
    """Filter and pagination of a list: the names after `marker`, at most `size`, folded at `delimiter`."""

    prefix: str = ""
    marker: str = ""
    delimiter: str = ""
    size: int = 5000
    with_metadata: bool = False


@dataclass(frozen=True)
class Page:
    """A page of a list: blobs, and virtual folders (blob prefixes, each ending with the delimiter)."""

    entries: tuple[Blob | str, ...]
    next_marker: str


def page_of(blobs: Iterable[Blob], request: ListRequest) -> Page:
    """Return a page of `blobs`, which are sorted by name and begin with the prefix."""
    entries: dict[str, Blob | str] = {}
    for blob in blobs:
        folder = _folder(blob.name, request)
        key = folder or blob.name
        if key > request.marker and key not in entries:
            if len(entries) == request.size:
                return Page(tuple(entries.values()), next(reversed(entries)))
            entries[key] = folder or blob
    return Page(tuple(entries.values()), "")


def blobs_xml(base: str, container: str, request: ListRequest, page: Page) -> str:
    """Return a page of a container's blobs."""
    entries = "".join(_entry_xml(entry, request.with_metadata) for entry in page.entries)
    parameters = f"<Prefix>{escape(request.prefix)}</Prefix><Marker>{escape(request.marker)}</Marker>" + (
        f"<MaxResults>{request.size}</MaxResults><Delimiter>{escape(request.delimiter)}</Delimiter>"
    )
    return (
        f'{_XML}<EnumerationResults ServiceEndpoint="{escape(base)}/" ContainerName="{escape(container)}">{parameters}'
        f"<Blobs>{entries}</Blobs><NextMarker>{escape(page.next_marker)}</NextMarker></EnumerationResults>"
    )


def containers_xml(base: str, containers: Iterable[Container], with_metadata: bool) -> str:
    """Return the list of containers."""
    entries = "".join(
        f"<Container><Name>{escape(container.name)}</Name><Properties>{_elements(container_headers(container))}</Properties>"
        f"{_metadata_xml(container.metadata) if with_metadata else ''}</Container>"
        for container in containers
    )
    return (
        f'{_XML}<EnumerationResults ServiceEndpoint="{escape(base)}/"><Containers>{entries}</Containers>'
        "<NextMarker></NextMarker></EnumerationResults>"
    )


def block_list_xml(committed: Iterable[Block] | None, uncommitted: Iterable[Block] | None) -> str:
    """Return a block blob's committed and uncommitted blocks; None leaves either list out."""
    lists = _blocks_xml("CommittedBlocks", committed) + _blocks_xml("UncommittedBlocks", uncommitted)
    return f"{_XML}<BlockList>{lists}</BlockList>"


def block_uses_from_xml(body: bytes) -> list[BlockUse]:
    """Return the blocks of a Put Block List request. A document type could define entities."""
    try:
        text = body.decode()
        if "<!" in text:
            raise BlobRefused("The block list has a document type or a comment.", reason="InvalidXmlDocument")
        elements = list(ElementTree.fromstring(text))
    except (ElementTree.ParseError, ValueError) as error:
        raise BlobRefused(f"The block list isn't XML: {error}.", reason="InvalidXmlDocument") from error
    odd = [element.tag for element in elements if element.tag not in ("Latest", "Committed", "Uncommitted")]
    if odd:
        raise BlobRefused(f"The block list has an element '{odd[0]}'.", reason="InvalidXmlNodeValue")
    return [BlockUse((e.text or "").strip(), e.tag != "Committed", e.tag != "Uncommitted") for e in elements]


def error_xml(code: str, message: str) -> str:
    """Return the body of a refusal."""
    return f"{_XML}<Error><Code>{code}</Code><Message>{escape(_legal(message))}</Message></Error>"


def _folder(name: str, request: ListRequest) -> str:
    """Return the virtual folder (blob prefix) of a name: up to the first delimiter after the prefix."""
    inside, delimiter, _ = (
        name[len(request.prefix) :].partition(request.delimiter) if request.delimiter else ("", "", "")
    )
    return f"{request.prefix}{inside}{delimiter}" if delimiter else ""


def _entry_xml(entry: Blob | str, with_metadata: bool) -> str:
    if isinstance(entry, str):
        return f"<BlobPrefix><Name>{escape(entry)}</Name></BlobPrefix>"
    properties = {**blob_headers(entry), "content-length": str(entry.size)}
    return (
        f"<Blob><Name>{escape(entry.name)}</Name><Properties>{_elements(properties)}</Properties>"
        f"{_metadata_xml(entry.metadata) if with_metadata else ''}</Blob>"
    )


def _elements(headers: Mapping[str, str]) -> str:
    return "".join(
        f"<{_ELEMENTS[name]}>{escape(_legal(value))}</{_ELEMENTS[name]}>"
        for name, value in headers.items()
        if name in _ELEMENTS
    )


def _metadata_xml(metadata: Mapping[str, str]) -> str:
    return f"<Metadata>{''.join(f'<{n}>{escape(_legal(v))}</{n}>' for n, v in metadata.items())}</Metadata>"


def _blocks_xml(name: str, blocks: Iterable[Block] | None) -> str:
    if blocks is None:
        return ""
    elements = (f"<Block><Name>{escape(block.id)}</Name><Size>{block.size}</Size></Block>" for block in blocks)
    return f"<{name}>{''.join(elements)}</{name}>"


def _legal(text: str) -> str:
    """Return a text without the characters that XML can't have."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "?", text)
