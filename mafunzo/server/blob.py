"""Azure Blob Storage's dialect, as far as Azure's SDK speaks it: whole blobs, blocks, metadata, ranges and lists."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from email.utils import format_datetime
from typing import BinaryIO
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from mafunzo.entities.blob import Blob
from mafunzo.errors import InvalidParameter, MafunzoError, NotSupported
from mafunzo.server.azure_context import azure_context
from mafunzo.server.body import limited_body
from mafunzo.server.sas import DELETE, LIST, READ, VERSION, WRITE
from mafunzo.wire.azureml.envelope import SUFFIX, status_of

ROOT = f"/mafunzo.blob.{SUFFIX}"
METADATA = "x-ms-meta-"
LIST_LIMIT_BYTES = 8 * 2**20
PAGE = 5000

router = APIRouter(prefix=ROOT)


def refuse(request: Request, error: MafunzoError) -> Response:
    """Return an error as Azure's storage client reads it: a code in a header, and XML."""
    codes = {"not_found": "BlobNotFound", "unauthorized": "AuthenticationFailed", "invalid_parameter": "InvalidInput"}
    code = codes.get(error.code, "UnsupportedHeader" if isinstance(error, NotSupported) else "InternalError")
    status = 403 if error.code == "unauthorized" else status_of(error)
    body = f"<?xml version='1.0' encoding='utf-8'?><Error><Code>{code}</Code><Message>{escape(str(error))}</Message></Error>"
    headers = {"x-ms-error-code": code, "x-ms-version": VERSION}
    return Response("" if request.method == "HEAD" else body, status, headers, media_type="application/xml")


@router.get("/{container}")
def list_blobs(
    request: Request, container: str, prefix: str = "", marker: str = "", maxresults: int = PAGE
) -> Response:
    """List the blobs of a container in pages; the marker of a page is the name of its last blob."""
    context = azure_context(request)
    context.sas.check(container, LIST, request.query_params)
    if request.query_params.get("comp") != "list":
        raise NotSupported("A container can be listed only: comp=list.")
    if request.query_params.get("delimiter"):
        raise NotSupported("A list by folders (delimiter) isn't supported.")
    found = [blob for blob in context.workspace.blobs.list(container, prefix) if blob.name > marker]
    size = max(1, min(maxresults, PAGE))
    return Response(
        _listing(context.place.base + ROOT, container, found[:size], len(found) > size), media_type="application/xml"
    )


@router.head("/{container}/{name:path}")
def head_blob(request: Request, container: str, name: str) -> Response:
    """Say what a blob is."""
    context = azure_context(request)
    context.sas.check(container, READ, request.query_params)
    blob = context.workspace.blobs.get(container, name)
    return Response(headers={**_headers(blob), "content-length": str(blob.size), "accept-ranges": "bytes"})


@router.get("/{container}/{name:path}")
def get_blob(request: Request, container: str, name: str) -> Response:
    """Send a blob, or a range of it."""
    context = azure_context(request)
    context.sas.check(container, READ, request.query_params)
    blob = context.workspace.blobs.get(container, name)
    if wanted := request.headers.get("x-ms-range"):  # which the client sends in place of the standard's header
        request.scope["headers"] = [*request.scope["headers"], (b"range", wanted.encode("latin-1"))]
    return FileResponse(context.workspace.blobs.path(blob), headers=_headers(blob), media_type=blob.content_type)


@router.put("/{container}/{name:path}")
async def put_blob(request: Request, container: str, name: str) -> Response:
    """Store a blob, a block of one, the list that puts blocks together, or a blob's metadata."""
    context, query = azure_context(request), request.query_params
    context.sas.check(container, WRITE, query)
    headers = request.headers
    metadata = {key.removeprefix(METADATA): value for key, value in headers.items() if key.startswith(METADATA)}
    kind = headers.get("x-ms-blob-content-type", "")
    match query.get("comp"):
        case None:
            _require_block_blob(headers)
            with context.workspace.blobs.draft() as draft:
                await _receive(request, draft)
                blob = await run_in_threadpool(context.workspace.blobs.put, container, name, draft, kind, metadata)
            return Response(status_code=201, headers=_headers(blob))
        case "block":
            block = _block_id(query.get("blockid", ""))
            with context.workspace.blobs.draft() as draft:
                await _receive(request, draft)
                await run_in_threadpool(context.workspace.blobs.put_block, container, name, block, draft)
            return Response(status_code=201, headers={"x-ms-version": VERSION})
        case "blocklist":
            blocks = _block_list(await limited_body(request, LIST_LIMIT_BYTES))
            blob = await run_in_threadpool(context.workspace.blobs.put_blocks, container, name, blocks, kind, metadata)
            return Response(status_code=201, headers=_headers(blob))
        case "metadata":
            blob = await run_in_threadpool(context.workspace.blobs.set_metadata, container, name, metadata)
            return Response(status_code=200, headers=_headers(blob))
        case other:
            raise NotSupported(f"comp={other} isn't supported for a blob.")


@router.delete("/{container}/{name:path}")
def delete_blob(request: Request, container: str, name: str) -> Response:
    """Delete a blob."""
    context = azure_context(request)
    context.sas.check(container, DELETE, request.query_params)
    context.workspace.blobs.delete(container, name)
    return Response(status_code=202, headers={"x-ms-version": VERSION})


async def _receive(request: Request, draft: BinaryIO) -> None:
    """Write a request's body into a file as it comes."""
    async for chunk in request.stream():
        await run_in_threadpool(draft.write, chunk)


def _require_block_blob(headers: Mapping[str, str]) -> None:
    kind = headers.get("x-ms-blob-type")
    if kind != "BlockBlob":
        raise NotSupported(f"A blob of the type {kind} isn't supported; BlockBlob is.")
    if headers.get("x-ms-copy-source"):
        raise NotSupported("A blob can't be copied from an address (x-ms-copy-source). Upload it.")


def _block_id(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidParameter("blockid isn't base64.") from error
    if not 0 < len(text) <= 128:
        raise InvalidParameter("blockid is missing, or longer than 128 characters.")
    return text


def _block_list(body: bytes) -> list[str]:
    """Return the ids of a block list. A document type, which could define entities, is refused."""
    if re.search(rb"<!\s*(DOCTYPE|ENTITY)", body, re.IGNORECASE):
        raise InvalidParameter("The block list has a document type.")
    try:
        return [found.text or "" for found in ElementTree.fromstring(body)]
    except ElementTree.ParseError as error:
        raise InvalidParameter(f"The block list isn't XML: {error}.") from error


def _headers(blob: Blob) -> dict[str, str]:
    assert blob.modified_at is not None
    return {
        "etag": blob.etag,
        "last-modified": format_datetime(blob.modified_at, usegmt=True),
        "x-ms-blob-type": "BlockBlob",
        "x-ms-version": VERSION,
        "content-type": blob.content_type,
        **{f"{METADATA}{name}": value for name, value in blob.metadata.items()},
    }


def _listing(base: str, container: str, blobs: list[Blob], has_more: bool) -> str:
    marker = escape(blobs[-1].name) if has_more else ""
    return "".join(
        (
            "<?xml version='1.0' encoding='utf-8'?>",
            f'<EnumerationResults ServiceEndpoint="{escape(base)}/" ContainerName="{escape(container)}"><Blobs>',
            *_entries(blobs),
            f"</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>",
        )
    )


def _entries(blobs: list[Blob]) -> Iterator[str]:
    for blob in blobs:
        assert blob.modified_at is not None
        yield (
            f"<Blob><Name>{escape(blob.name)}</Name><Properties>"
            f"<Last-Modified>{format_datetime(blob.modified_at, usegmt=True)}</Last-Modified><Etag>{escape(blob.etag)}</Etag>"
            f"<Content-Length>{blob.size}</Content-Length><Content-Type>{escape(blob.content_type)}</Content-Type>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
        )
