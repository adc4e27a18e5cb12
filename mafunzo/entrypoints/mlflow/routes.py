"""MLflow for its own clients, for `azureml-mlflow`, and in a browser.

`MLFLOW_TRACKING_URI=http://127.0.0.1:8080/mlflow` with `MLFLOW_TRACKING_TOKEN=<operator key, or a user's token>` is all that a
client needs. A browser takes the key in the address, or asks for a password, which is the same key. `azureml-mlflow` comes to
the https port with a token of Azure's dialect. The model registry is answered from the workspace's models, the rest by MLflow
itself, in a child process.
"""

import base64
import binascii
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from yarl import URL

from mafunzo.entrypoints.http.access import READING, operator_with, require
from mafunzo.entrypoints.http.body import json_of, limited_body
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.identity import OPERATOR_AUDIENCE, OPERATOR_LIFETIME_S, Caller
from mafunzo.entrypoints.mlflow import registered_model as wire
from mafunzo.entrypoints.mlflow.access import PREFIX, needed_by_mlflow, require_listed
from mafunzo.entrypoints.mlflow.child import MlflowView
from mafunzo.entrypoints.mlflow.operation import address_of
from mafunzo.entrypoints.mlflow.registry import Registry
from mafunzo.errors import InvalidParameter, MafunzoError, NotSupported, Unauthorized

DROPPED_HEADERS = {"host", "authorization", "cookie", "origin", "referer", "connection", "transfer-encoding"}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
MODEL_PAGE_FILE = "model-versions/get-artifact"
"""Where the page of a model's version asks for a file of it."""
LET_IN = "in"
USER_TAG = "mlflow.user"
_REGISTRY = re.compile(r"(ajax-)?api/2\.0/mlflow/(?P<operation>(registered-models|model-versions)/.+)")
_ARTIFACTS = re.compile(r"(ajax-)?api/2\.0/mlflow-artifacts/artifacts(/(?P<path>.*))?")
_NEW_RUN = re.compile(r"(ajax-)?api/2\.0/mlflow/runs/create")
_RUN = re.compile(r"(ajax-)?api/2\.0/mlflow/runs/get")

router = APIRouter(prefix=PREFIX)


@dataclass(frozen=True)
class Mlflow:
    """MLflow's dialect on one server. child: the process that speaks most of it; registry: of the workspace's models.

    artifact_root: what an address of a run's files begins with in the JSON of an answer. role_of: which role a request needs.
    """

    child: MlflowView
    registry: Registry
    serving: Context
    artifact_root: bytes = f'"{wire.ARTIFACTS}'.encode()
    role_of = staticmethod(needed_by_mlflow)

    async def answer(self, request: Request, caller: Caller, path: str) -> Response:
        """Answer an authenticated caller, if their role is enough; an error has MLflow's form."""
        try:
            require_listed(request.method, path)
            require(caller, needed_by_mlflow(request.method, path), "change or delete what MLflow shows")
            return await _answer(request, self, caller, path)
        except MafunzoError as error:
            status, body = wire.error_body(error, is_creation=False)
            return JSONResponse(body, status)


@router.get("")
async def with_slash() -> Response:
    """Lead to the pages, whose links are relative."""
    return RedirectResponse("/mlflow/")


@router.api_route("/{path:path}", methods=METHODS, include_in_schema=False, name="mlflow")
async def for_operator(request: Request, path: str) -> Response:
    """Answer whoever has the operator's key or a user's token."""
    mlflow = cast(Mlflow, request.app.state.mlflow)
    try:
        caller = await run_in_threadpool(operator_with, _key(request), mlflow.serving)
    except Unauthorized as error:
        return Response(
            f"{error}\nMLflow asks for the operator's key, which `mafunzo mlflow` prints on the server's machine, or for a "
            "user's token, which an owner makes (mafunzo user create NAME). Clients send it as MLFLOW_TRACKING_TOKEN, a "
            "browser as the password.\n",
            status_code=401,
            headers={"WWW-Authenticate": 'Basic realm="mafunzo, the operator\'s key"'},
            media_type="text/plain",
        )
    request.state.caller = caller
    if request.headers.get("origin", _own_origin(request)) != _own_origin(request):
        return Response("A page of another site can't use MLflow here.\n", status_code=403, media_type="text/plain")
    is_page = not path and "text/html" in request.headers.get("accept", "")
    if is_page and "authorization" in request.headers and LET_IN not in request.query_params:
        return _let_in(request, mlflow, caller)
    return await mlflow.answer(request, caller, path)


def _let_in(request: Request, mlflow: Mlflow, caller: Caller) -> Response:
    """Lead a browser to the pages at an address without the key: from one with it, pages can't ask for anything.

    A cookie lets it in from then on. It isn't the key, because other servers of this machine get it too. Browsers go on to
    send a password that was typed in, hence the mark in the address.
    """
    key, _ = mlflow.serving.identity.token(OPERATOR_AUDIENCE, caller, lifetime_s=OPERATOR_LIFETIME_S)
    answer = RedirectResponse(f"{_own_origin(request)}/mlflow/?{LET_IN}", status_code=303)
    answer.set_cookie(_cookie(request), key, max_age=OPERATOR_LIFETIME_S, path="/mlflow", httponly=True, samesite="lax")
    return answer


async def _answer(request: Request, mlflow: Mlflow, caller: Caller, path: str) -> Response:
    if match := _REGISTRY.fullmatch(path):
        return await _registry(request, mlflow, caller, path, match["operation"])
    if match := _ARTIFACTS.fullmatch(path):
        folder, _, file = (match["path"] or request.query_params.get("path", "")).partition("/")
        if folder == wire.FOLDER:
            return await _model_file(request, mlflow, file, is_list=not match["path"])
    if path == MODEL_PAGE_FILE:
        query = request.query_params
        return await _file(mlflow, f"{query.get('name')}/{query.get('version')}/{query.get('path')}")
    if _RUN.fullmatch(path):  # perhaps of a step that has begun this moment
        await run_in_threadpool(mlflow.child.write_new_facts)
    if _NEW_RUN.fullmatch(path) and caller != mlflow.serving.identity.owner:
        run = _object(await limited_body(request, mlflow.serving.limits.mlflow_body_bytes))
        return await _pass_on(request, mlflow, path, json.dumps(_with_user(run, caller.user)).encode())
    has_body = not {"content-length", "transfer-encoding"}.isdisjoint(request.headers.keys())
    return await _pass_on(request, mlflow, path, request.stream() if has_body else None)


def _with_user(run: Mapping[str, Any], user: str) -> dict[str, Any]:
    """Return a request for a new run with the caller as its user: clients send the user name of their own machine."""
    tags = run["tags"] if isinstance(run.get("tags"), list) else []
    others = [tag for tag in tags if not (isinstance(tag, Mapping) and tag.get("key") == USER_TAG)]
    return {**run, "user_id": user, "tags": [*others, {"key": USER_TAG, "value": user}]}


async def _registry(request: Request, mlflow: Mlflow, caller: Caller, path: str, operation: str) -> Response:
    body = await limited_body(request, mlflow.serving.limits.mlflow_body_bytes)
    registry, arguments = mlflow.registry.acting_as(caller.user), {**_query(request), **_object(body)}
    if operation == "model-versions/create" and (run_and_name := wire.run_and_name(str(arguments.get("source")))):
        arguments = {
            "run_id": run_and_name[0],
            **arguments,
            "source": await _logged_model(mlflow, *run_and_name) or arguments["source"],
        }
    answer = await run_in_threadpool(registry.answer, request.method, operation, arguments)
    return await _pass_on(request, mlflow, path, body or None) if answer is None else JSONResponse(answer[1], answer[0])


async def _logged_model(mlflow: Mlflow, run: str, name: str) -> str | None:
    """Return the address of the newest model that a run has logged under a name; None if it is none, or no such run."""
    address, token = await run_in_threadpool(mlflow.child.address)
    api, headers = f"{address}/api/2.0/mlflow", {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{api}/runs/get", params={"run_id": run}) as answer:
            if answer.status != 200:
                return None
            experiment = (await answer.json())["run"]["info"]["experiment_id"]
        search = wire.logged_model_search(experiment, run, name)
        async with session.post(f"{api}/logged-models/search", json=search) as answer:
            models = (await answer.json()).get("models") or [] if answer.status == 200 else []
    return f"models:/{models[0]['info']['model_id']}" if models else None


async def _model_file(request: Request, mlflow: Mlflow, path: str, is_list: bool) -> Response:
    """Answer with a file of a registered model, or with the list of a folder's."""
    if request.method not in READING:
        raise NotSupported("The files of a registered model never change. Register a new version.")
    if is_list:
        return JSONResponse(await run_in_threadpool(mlflow.registry.list_files, path))
    return await _file(mlflow, path)


async def _file(mlflow: Mlflow, path: str) -> Response:
    file = await run_in_threadpool(mlflow.registry.open_file, path)
    return FileResponse(file, filename=path.rpartition("/")[2], media_type="application/octet-stream")


async def _pass_on(request: Request, mlflow: Mlflow, path: str, body: bytes | AsyncIterator[bytes] | None) -> Response:
    """Stream a request to MLflow, at the address of the path that was judged, and its answer back."""
    address, token = await run_in_threadpool(mlflow.child.address)
    dropped = DROPPED_HEADERS | ({"content-length"} if isinstance(body, bytes) else set())
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in dropped]
    session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None))
    try:
        answer = await session.request(
            request.method,
            URL(f"{address}/{address_of(path)}", encoded=True).with_query(list(request.query_params.multi_items())),
            data=body,
            headers=[*headers, ("Authorization", f"Bearer {token}")],
            allow_redirects=False,
        )
    except BaseException:
        await session.close()
        raise

    async def parts() -> AsyncIterator[bytes]:
        try:
            async for part in answer.content.iter_any():
                yield part
        finally:
            await session.close()

    passed = {name: value for name, value in answer.headers.items() if name.lower() not in DROPPED_HEADERS}
    return StreamingResponse(parts(), answer.status, passed)


def _query(request: Request) -> dict[str, Any]:
    """Return the query parameters; a repeated one is a list."""
    names = request.query_params.keys()
    values = {name: request.query_params.getlist(name) for name in names}
    return {name: texts[0] if len(texts) == 1 else texts for name, texts in values.items()}


def _object(body: bytes) -> dict[str, Any]:
    content = json_of(body or b"{}")
    if not isinstance(content, dict):
        raise InvalidParameter("The request's body isn't a JSON object.")
    return content


def _own_origin(request: Request) -> str:
    return f"{request.url.scheme}://{request.headers.get('host', '')}"


def _cookie(request: Request) -> str:
    return f"mafunzo-mlflow-{request.url.port}"  # cookies are shared by all ports


def _key(request: Request) -> str:
    """Return the key of a bearer token, the password of a browser, or its cookie; raises `Unauthorized` without any."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    key = value.strip() if scheme.lower() == "bearer" else request.cookies.get(_cookie(request), "")
    if scheme.lower() == "basic":
        try:
            key = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Unauthorized("The Authorization header isn't what HTTP basic authentication sends.") from error
    if not key:
        raise Unauthorized("The request has no key and no token.")
    return key
