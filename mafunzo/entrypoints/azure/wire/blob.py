"""Azure Blob Storage's dialect: its codes, names, headers and XML.

https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api, service version 2023-11-03.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from mafunzo.entities.blob import Blob, Block, BlockUse, Condition, Container
from mafunzo.errors import MafunzoError, NotSupported, RefusedError

VERSION = "2023-11-03"
METADATA = "x-ms-meta-"
METADATA_LIMIT_BYTES = 8 * 2**10
NAME_LIMIT = 1024
BLOCK_ID_LIMIT_BYTES = 64
NOT_MODIFIED = 304

STATUS: Mapping[str, int] = {
    "AuthenticationFailed": 403,
    "AuthorizationPermissionMismatch": 403,
    "AuthorizationResourceTypeMismatch": 403,
    "BlobAlreadyExists": 409,
    "BlobNotFound": 404,
    "ConditionNotMet": 412,
    "ContainerAlreadyExists": 409,
    "ContainerNotFound": 404,
    "InvalidRange": 416,
    "NotModified": NOT_MODIFIED,
    "RequestBodyTooLarge": 413,
    "UnauthorizedBlobOverwrite": 403,
    "UnsupportedHttpVerb": 405,
}
"""Azure Storage's names for what is wrong that have another status than 400. They override the errors' own statuses: its
clients tell by the status whether to try again, to authenticate, or to take a range or condition as not met."""

REASONS: Mapping[str, str] = {
    "blob_exists": "BlobAlreadyExists",
    "blocks_missing": "InvalidBlockList",
    "conflict": "ContainerAlreadyExists",
    "container_not_found": "ContainerNotFound",
    "invalid_parameter": "InvalidInput",
    "not_found": "BlobNotFound",
    "overwrite_forbidden": "UnauthorizedBlobOverwrite",
    "precondition_failed": "ConditionNotMet",
    "unauthorized": "AuthenticationFailed",
}
"""Azure Storage's error codes for ours, in requests for a blob or container."""

SETTINGS: Mapping[str, str] = {
    "x-ms-blob-cache-control": "cache-control",
    "x-ms-blob-content-disposition": "content-disposition",
    "x-ms-blob-content-encoding": "content-encoding",
    "x-ms-blob-content-language": "content-language",
    "x-ms-blob-content-md5": "content-md5",
}
"""The headers that set a blob's HTTP properties, and the response headers that return them."""

_CONTAINER_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
_METADATA_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_ODD_CHARACTERS = re.compile(r"[\x00-\x1f\x7f\\\ufffd-\uffff]")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
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


class BlobRefused(RefusedError):
    """A blob or container isn't what a request needs it to be; `reason` is Azure Storage's name for that."""

    def __init__(self, message: str, faults: Sequence[str] = (), reason: str = "InvalidInput") -> None:
        super().__init__(message, faults)
        self.reason = reason


def refusal(error: MafunzoError) -> tuple[int, str]:
    """Return an error's HTTP status and its name at Azure Storage."""
    if isinstance(error, BlobRefused):
        return STATUS.get(error.reason, 400), "ConditionNotMet" if error.reason == "NotModified" else error.reason
    reason = "UnsupportedHeader" if isinstance(error, NotSupported) else REASONS.get(error.code, "InternalError")
    return STATUS.get(reason, error.status), reason


def check_container_name(name: str) -> None:
    """Raise `BlobRefused` for a name that no container can have."""
    if not 3 <= len(name) <= 63:
        raise BlobRefused(f"A container's name has 3 to 63 characters, not {len(name)}.", reason="OutOfRangeInput")
    if not _CONTAINER_NAME.fullmatch(name):
        raise BlobRefused(
            f"'{name}' can't name a container: lower-case letters, digits and single hyphens between them can.",
            reason="InvalidResourceName",
        )


def check_blob_name(name: str) -> None:
    """Raise `BlobRefused` for a name that no blob can have: each part between slashes must be able to name a file."""
    if not 1 <= len(name) <= NAME_LIMIT:
        raise BlobRefused(f"A blob's name has 1 to {NAME_LIMIT} characters, not {len(name)}.", reason="OutOfRangeInput")
    if any(part in ("", ".", "..") for part in name.split("/")) or _ODD_CHARACTERS.search(name):
        raise BlobRefused(
            f"{name!r} can't name a blob: a part of it is empty, '.' or '..', or it has a backslash or a control character.",
            reason="InvalidResourceName",
        )


def metadata_from_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the user-defined metadata of a blob or container (`x-ms-meta-*`); raises `BlobRefused`."""
    metadata = {key.removeprefix(METADATA): value for key, value in headers.items() if key.startswith(METADATA)}
    odd = [name for name in metadata if not _METADATA_NAME.fullmatch(name)]
    if odd:
        raise BlobRefused(f"'{odd[0]}' can't name metadata: letters, digits and _ can.", reason="InvalidMetadata")
    if sum(len(name) + len(value) for name, value in metadata.items()) > METADATA_LIMIT_BYTES:
        raise BlobRefused(f"There are more than {METADATA_LIMIT_BYTES} bytes of metadata.", reason="MetadataTooLarge")
    return metadata


def settings_from_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a blob's HTTP properties, by the response header that returns each."""
    return {theirs: headers[ours] for ours, theirs in SETTINGS.items() if headers.get(ours)}


def condition_from_headers(headers: Mapping[str, str]) -> Condition:
    """Return a request's conditional headers (ETags, modification times); raises `BlobRefused` and `NotSupported`."""
    for unknown in ("x-ms-if-tags", "x-ms-lease-id"):
        if unknown in headers:
            raise NotSupported(f"The condition {unknown} isn't supported: blobs have neither tags nor leases here.")
    return Condition(
        match=_etags(headers.get("if-match", "")),
        none_match=_etags(headers.get("if-none-match", "")),
        modified_since=moment_of(headers, "if-modified-since"),
        unmodified_since=moment_of(headers, "if-unmodified-since"),
    )


def moment_of(headers: Mapping[str, str], name: str) -> datetime | None:
    """Return the time in a header (HTTP date), or None without it; raises `BlobRefused`."""
    if not headers.get(name):
        return None
    try:
        moment = parsedate_to_datetime(headers[name])
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BlobRefused(f"{name} is '{headers[name]}', no date of HTTP's.", reason="InvalidHeaderValue") from error


def range_from_headers(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """Return the first and last byte of the range that is requested of `size` bytes, or None for all; raises `BlobRefused`."""
    text = headers.get("x-ms-range") or headers.get("range")
    if not text:
        return None
    match = _RANGE.fullmatch(text.strip())
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        raise BlobRefused(f"The range '{text}' isn't bytes=FIRST- or bytes=FIRST-LAST.", reason="InvalidHeaderValue")
    if int(match[1]) >= size:
        raise BlobRefused(f"The range '{text}' begins behind the blob's {size} bytes.", reason="InvalidRange")
    return int(match[1]), min(int(match[2] or size), size - 1)


def blob_headers(blob: Blob) -> dict[str, str]:
    """Return a blob's response headers."""
    return {
        "accept-ranges": "bytes",
        "content-type": blob.content_type,
        "etag": blob.etag,
        "last-modified": http_date(blob.modified_at),
        "x-ms-blob-type": "BlockBlob",
        "x-ms-creation-time": http_date(blob.created_at or blob.modified_at),
        "x-ms-lease-state": "available",
        "x-ms-lease-status": "unlocked",
        **blob.settings,
        **_metadata_headers(blob.metadata),
    }


def container_headers(container: Container) -> dict[str, str]:
    """Return a container's response headers."""
    return {
        "etag": container.etag,
        "last-modified": http_date(container.modified_at),
        "x-ms-has-immutability-policy": "false",
        "x-ms-has-legal-hold": "false",
        "x-ms-lease-state": "available",
        "x-ms-lease-status": "unlocked",
        **_metadata_headers(container.metadata),
    }


def written_headers(of: Blob | Container) -> dict[str, str]:
    """Return the response headers of a write: ETag and modification time."""
    return {"etag": of.etag, "last-modified": http_date(of.modified_at)}


def http_date(moment: datetime | None) -> str:
    """Return a moment as HTTP writes it; what is stored has one."""
    assert moment is not None
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def _metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    return {f"{METADATA}{name}": value for name, value in metadata.items()}


def _etags(text: str) -> frozenset[str]:
    return frozenset(part.strip().removeprefix("W/").strip('"') for part in text.split(",") if part.strip())


# XML: lists of blobs, containers and blocks, and errors


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


def containers_xml(base: str, containers: Iterable[Container], with_metadata: bool, next_marker: str = "") -> str:
    """Return a page of the list of containers."""
    entries = "".join(
        f"<Container><Name>{escape(container.name)}</Name><Properties>{_elements(container_headers(container))}</Properties>"
        f"{_metadata_xml(container.metadata) if with_metadata else ''}</Container>"
        for container in containers
    )
    return (
        f'{_XML}<EnumerationResults ServiceEndpoint="{escape(base)}/"><Containers>{entries}</Containers>'
        f"<NextMarker>{escape(next_marker)}</NextMarker></EnumerationResults>"
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
