"""A worker's ASGI application: all its routes, and errors in OpenAI's dialect."""

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mafunzo.compute.inference.http.adapters import add_adapter_routes
from mafunzo.compute.inference.http.answering import Disconnected
from mafunzo.compute.inference.http.openai import add_openai_routes
from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.http.supervision import add_supervision_routes
from mafunzo.compute.inference.request_check import PROMPT
from mafunzo.errors import ClientGone, FailedError, InvalidParameter, MafunzoError, NotFound
from mafunzo.protocol.errors import error_body


def make_app(service: Service) -> FastAPI:
    """Return the worker's ASGI application."""
    app = FastAPI(title="Mafunzo worker", docs_url=None, redoc_url=None, openapi_url=None)
    app.exception_handler(MafunzoError)(_tell_error)
    app.exception_handler(Disconnected)(_tell_nobody)
    app.exception_handler(HTTPException)(_tell_http)
    app.exception_handler(Exception)(_tell_fault)
    add_supervision_routes(app, service)
    add_openai_routes(app, service)
    add_adapter_routes(app, service)
    return app


async def _tell_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MafunzoError)
    return JSONResponse(error_body(error, _param(error, request.url.path)), error.status)


async def _tell_http(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method in OpenAI's error shape."""
    assert isinstance(error, HTTPException)
    body = error_body(NotFound(f"{request.method} {request.url.path}: {error.detail}."))
    body["error"]["code"] = None
    return JSONResponse(body, error.status_code)


async def _tell_fault(request: Request, error: Exception) -> Response:
    """Answer an internal error with 500; uvicorn logs its traceback."""
    return JSONResponse(error_body(FailedError(f"The request failed: {type(error).__name__}: {error}")), 500)


async def _tell_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=ClientGone.status)


def _param(error: MafunzoError, path: str) -> str | None:
    if not isinstance(error, InvalidParameter):
        return None
    return "messages" if error.param == PROMPT and "chat" in path else error.param
