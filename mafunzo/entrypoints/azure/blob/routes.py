"""Azure Blob Storage's dialect: containers, and block blobs in them."""

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from mafunzo.control.workspace import Blobs
from mafunzo.entities.blob import Blob
from mafunzo.entrypoints.azure.blob.access import MANAGE, permissions, refuse_without, require
from mafunzo.entrypoints.azure.context import azure_context
from mafunzo.entrypoints.azure.sas import CREATE, DELETE, LIST, READ, WRITE
from mafunzo.entrypoints.azure.wire import blob as wire
from mafunzo.entrypoints.azure.wire.envelope import BLOB_ROOT, DATASTORES
from mafunzo.entrypoints.http.body import limited_body
from mafunzo.entrypoints.http.context import context_of
from mafunzo.errors import MafunzoError, NotFound, NotSupported

HASHED_RANGE_BYTES = 4 * 2**20
"""Azure Storage hashes no longer range."""
PAGE = 5000
READ_AT_ONCE = 1000
METHODS = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]
NOT_SUPPORTED = (
    "x-ms-access-tier",
    "x-ms-content-crc64",
    "x-ms-copy-source",
    "x-ms-encryption-key",
    "x-ms-immutability-policy-until-date",
    "x-ms-legal-hold",
    "x-ms-structured-body",
    "x-ms-tags",
)
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,1024}")


class BlobRoute(APIRoute):
    """Answers as Azure Storage does: refusals are XML with their code in a header, and every answer has an id."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except MafunzoError as error:
                response = _refusal(request, error)
            response.headers.update(_ids(request))
            return response

        return answer


router = APIRouter(prefix=BLOB_ROOT, route_class=BlobRoute)


@router.get("/")
def list_containers(request: Request) -> Response:
    """List the containers."""
    require(request, MANAGE)
    if request.query_params.get("comp") != "list":
        raise NotSupported("Of the account, the containers can be listed: comp=list.")
    query = request.query_params
    size = _page_size(query.get("maxresults", str(PAGE)))
    containers = _blobs(request).containers(query.get("prefix", ""), size + 1, query.get("marker", ""))
    marker = containers[size - 1].name if len(containers) > size else ""
    return _xml(wire.containers_xml(_base(request), containers[:size], "metadata" in _included(request), marker))


@router.put("/{container}")
def create_container(request: Request, container: str) -> Response:
    """Make a container."""
    require(request, MANAGE, container)
    _require_container_request(request)
    wire.check_container_name(container)
    resource = _blobs(request).create_container(container, wire.metadata_from_headers(request.headers))
    return Response(status_code=201, headers=wire.written_headers(resource))


@router.get("/{container}")
@router.head("/{container}")
def get_container(request: Request, container: str) -> Response:
    """Return a container's properties, or list its blobs."""
    if request.query_params.get("comp") == "list" and request.method == "GET":
        return _list_blobs(request, container)
    require(request, MANAGE, container)
    _require_container_request(request, "metadata")
    return Response(headers=wire.container_headers(_blobs(request).container(container)))


@router.delete("/{container}")
def delete_container(request: Request, container: str) -> Response:
    """Delete a container with its blobs."""
    require(request, MANAGE, container)
    _require_container_request(request)
    if container in DATASTORES.values():
        raise NotSupported(f"The container '{container}' is the workspace's own, and can't be deleted.")
    _blobs(request).delete_container(container)
    return Response(status_code=202)


@router.get("/{container}/{name:path}")
@router.head("/{container}/{name:path}")
def read_blob(request: Request, container: str, name: str) -> Response:
    """Return a blob's properties and content, a range of it, or its block list."""
    require(request, READ, container, name)
    _check_names(request, container, name)
    _blobs(request).container(container)
    match request.query_params.get("comp"):
        case "blocklist":
            return _block_list(request, container, name)
        case None | "metadata":
            return _send(request, _blobs(request).get(container, name))
        case other:
            raise NotSupported(f"comp={other} isn't supported for reading a blob.")


@router.put("/{container}/{name:path}")
async def write_blob(request: Request, container: str, name: str) -> Response:
    """Store a block blob, a block, a block list, or a blob's metadata or HTTP properties."""
    allowed = await run_in_threadpool(permissions, request, container, name)
    refuse_without(CREATE if CREATE in allowed else WRITE, allowed)
    _check_names(request, container, name)
    if unsupported := [header for header in NOT_SUPPORTED if header in request.headers]:
        raise NotSupported(f"The header {unsupported[0]} isn't supported for a blob. Send the request without it.")
    await run_in_threadpool(_blobs(request).container, container)
    arguments: dict[str, Any] = {
        "condition": replace(wire.condition_from_headers(request.headers), may_overwrite=WRITE in allowed)
    }
    match request.query_params.get("comp"):
        case None:
            return await _put_blob(request, container, name, arguments)
        case "block":
            return await _put_block(request, container, name)
        case "blocklist":
            return await _put_block_list(request, container, name, arguments)
        case "metadata":
            arguments["metadata"] = wire.metadata_from_headers(request.headers)
        case "properties":
            arguments |= _http_properties(request.headers)
        case other:
            raise NotSupported(f"comp={other} isn't supported for writing a blob.")
    blob = await run_in_threadpool(lambda: _blobs(request).change(container, name, **arguments))
    return Response(headers=wire.written_headers(blob))


@router.delete("/{container}/{name:path}")
def delete_blob(request: Request, container: str, name: str) -> Response:
    """Delete a blob."""
    require(request, DELETE, container, name)
    _check_names(request, container, name)
    _blobs(request).container(container)
    _blobs(request).delete(container, name, wire.condition_from_headers(request.headers))
    return Response(status_code=202)


@router.api_route("/{path:path}", methods=METHODS, include_in_schema=False)
def unknown(request: Request, path: str) -> Response:
    """Refuse what isn't there."""
    raise wire.BlobRefused(f"{request.method} isn't supported for /{path}.", reason="UnsupportedHttpVerb")


def _list_blobs(request: Request, container: str) -> Response:
    require(request, LIST, container)
    _blobs(request).container(container)
    if "uncommittedblobs" in _included(request):
        raise NotSupported("A list of blobs that aren't whole yet isn't supported; that of one blob's blocks is.")
    query = request.query_params
    list_request = wire.ListRequest(
        prefix=query.get("prefix", ""),
        marker=query.get("marker", ""),
        delimiter=query.get("delimiter", ""),
        size=_page_size(query.get("maxresults", str(PAGE))),
        with_metadata="metadata" in _included(request),
    )
    at_once = min(list_request.size + 1, READ_AT_ONCE)
    blobs = _blobs(request).scan(container, list_request.prefix, list_request.marker, list_request.delimiter, at_once)
    page = wire.page_of(blobs, list_request)
    return _xml(wire.blobs_xml(_base(request), container, list_request, page))


def _block_list(request: Request, container: str, name: str) -> Response:
    list_type = request.query_params.get("blocklisttype", "committed").lower()
    uncommitted = _blobs(request).blocks.list(container, name)
    if uncommitted and list_type != "committed":
        blob = _blobs(request).find(container, name)
    else:
        blob = _blobs(request).get(container, name)
    committed = blob.blocks if blob is not None else ()
    body = wire.block_list_xml(
        None if list_type == "uncommitted" else committed, None if list_type == "committed" else uncommitted
    )
    headers = {} if blob is None else {**wire.written_headers(blob), "x-ms-blob-content-length": str(blob.size)}
    return _xml(body, headers)


def _send(request: Request, blob: Blob) -> Response:
    """Return a blob, or the requested range of it."""
    condition = wire.condition_from_headers(request.headers)
    condition.check_read(blob)
    if condition.is_known(blob):
        raise wire.BlobRefused("The blob is as the client knows it.", reason="NotModified")
    headers = wire.blob_headers(blob)
    if request.method == "HEAD" or request.query_params.get("comp") == "metadata":
        return Response(headers={**headers, "content-length": str(blob.size if request.method == "HEAD" else 0)})
    try:
        byte_range = wire.range_from_headers(request.headers, blob.size)
    except wire.BlobRefused as error:
        response = _refusal(request, error)
        response.headers["content-range"] = f"bytes */{blob.size}"
        return response
    path = _blobs(request).path(blob)
    others = [(n, v) for n, v in request.scope["headers"] if n not in (b"range", b"if-range")]
    if byte_range is None:
        request.scope["headers"] = others
        return FileResponse(path, headers=headers)
    first, last = byte_range
    if md5 := headers.pop("content-md5", ""):
        headers["x-ms-blob-content-md5"] = md5
    if request.headers.get("x-ms-range-get-content-md5", "").lower() == "true":
        with path.open("rb") as file:
            headers["content-md5"] = _range_md5(file, first, last - first + 1)
    request.scope["headers"] = [*others, (b"range", f"bytes={first}-{last}".encode())]
    return FileResponse(path, headers=headers)


async def _put_blob(request: Request, container: str, name: str, arguments: dict[str, Any]) -> Response:
    kind = request.headers.get("x-ms-blob-type")
    if kind != "BlockBlob":
        raise NotSupported(f"A blob of the type {kind} isn't supported; BlockBlob is.")
    arguments |= {"metadata": wire.metadata_from_headers(request.headers), **_http_properties(request.headers)}
    with _blobs(request).draft() as draft:
        md5 = await _receive(request, draft)
        _check_md5(arguments["settings"].setdefault("content-md5", md5), md5)
        blob = await run_in_threadpool(lambda: _blobs(request).put(container, name, draft, **arguments))
    return Response(status_code=201, headers={**wire.written_headers(blob), "content-md5": md5})


async def _put_block(request: Request, container: str, name: str) -> Response:
    block = _block_id(request.query_params.get("blockid", ""))
    with _blobs(request).draft() as draft:
        md5 = await _receive(request, draft)
        await run_in_threadpool(_blobs(request).blocks.put, container, name, block, draft)
    return Response(status_code=201, headers={"content-md5": md5})


async def _put_block_list(request: Request, container: str, name: str, arguments: dict[str, Any]) -> Response:
    body = await limited_body(request, context_of(request).limits.block_list_bytes)
    _check_md5(request.headers.get("content-md5"), _md5(hashlib.md5(body, usedforsecurity=False)))
    uses = wire.block_uses_from_xml(body)
    arguments |= {"metadata": wire.metadata_from_headers(request.headers), **_http_properties(request.headers)}
    blob = await run_in_threadpool(lambda: _blobs(request).put_blocks(container, name, uses, **arguments))
    return Response(status_code=201, headers=wire.written_headers(blob))


async def _receive(request: Request, draft: BinaryIO) -> str:
    """Stream a request's body into a file, and return its MD5 hash; raises `BlobRefused`."""
    most_bytes = context_of(request).limits.upload_bytes
    digest, size = hashlib.md5(usedforsecurity=False), int(request.headers.get("content-length", 0))
    if size <= most_bytes:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most_bytes:
                break
            await run_in_threadpool(draft.write, chunk)
            digest.update(chunk)
    if size > most_bytes:
        raise wire.BlobRefused(
            f"The body is larger than {most_bytes} bytes. Send blocks.", reason="RequestBodyTooLarge"
        )
    _check_md5(request.headers.get("content-md5"), _md5(digest))
    return _md5(digest)


def _check_md5(expected: str | None, actual: str) -> None:
    if expected and expected != actual:
        raise wire.BlobRefused(
            f"The bytes that came have the MD5 hash {actual}, expected {expected}.", reason="Md5Mismatch"
        )


def _md5(digest: "hashlib._Hash") -> str:
    return base64.b64encode(digest.digest()).decode()


def _range_md5(file: BinaryIO, first: int, size: int) -> str:
    if size > HASHED_RANGE_BYTES:
        raise wire.BlobRefused(
            f"The MD5 hash of a range is given for at most {HASHED_RANGE_BYTES} bytes.", reason="OutOfRangeInput"
        )
    file.seek(first)
    return _md5(hashlib.md5(file.read(size), usedforsecurity=False))


def _check_names(request: Request, container: str, name: str) -> None:
    """Refuse invalid names and an encoded slash (%2F); a read of `folder/` is `NotFound`."""
    wire.check_container_name(container)
    is_folder = name.endswith("/") and request.method in ("GET", "HEAD")
    wire.check_blob_name(name[:-1] if is_folder else name)
    if is_folder:
        raise NotFound(f"Container '{container}' has no blob '{name}'.")
    if b"%2f" in request.scope["raw_path"].lower():
        raise wire.BlobRefused("The address has an encoded slash (%2F). Send it as it is.", reason="InvalidUri")


def _block_id(text: str) -> str:
    try:
        size = len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not 0 < size <= wire.BLOCK_ID_LIMIT_BYTES:
        raise wire.BlobRefused(
            f"blockid isn't 1 to {wire.BLOCK_ID_LIMIT_BYTES} bytes in base64.", reason="InvalidQueryParameterValue"
        )
    return text


def _page_size(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise wire.BlobRefused(f"maxresults is '{text}', expected 1 or more.", reason="OutOfRangeQueryParameterValue")
    return min(int(text), PAGE)


def _http_properties(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return a blob's content type and other HTTP properties."""
    return {
        "content_type": headers.get("x-ms-blob-content-type") or "application/octet-stream",
        "settings": wire.settings_from_headers(headers),
    }


def _included(request: Request) -> set[str]:
    return {part for text in request.query_params.getlist("include") for part in text.split(",")}


def _require_container_request(request: Request, *comps: str) -> None:
    query = request.query_params
    if query.get("restype") != "container" or query.get("comp") not in (None, *comps):
        raise NotSupported(
            "A container can be made, shown, listed and deleted: restype=container, and comp=list to list."
        )


def _xml(body: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="application/xml")


def _refusal(request: Request, error: MafunzoError) -> Response:
    status, code = wire.refusal(error)
    is_empty = request.method == "HEAD" or status == wire.NOT_MODIFIED
    body = "" if is_empty else wire.error_xml(code, str(error))
    return Response(body, status, {"x-ms-error-code": code}, media_type="application/xml")


def _ids(request: Request) -> dict[str, str]:
    client_request_id = request.headers.get("x-ms-client-request-id", "")
    echo = {"x-ms-client-request-id": client_request_id} if _REQUEST_ID.fullmatch(client_request_id) else {}
    return {"x-ms-request-id": secrets.token_hex(16), "x-ms-version": wire.VERSION, **echo}


def _blobs(request: Request) -> Blobs:
    return azure_context(request).workspace.blobs


def _base(request: Request) -> str:
    return azure_context(request).place.base + BLOB_ROOT
