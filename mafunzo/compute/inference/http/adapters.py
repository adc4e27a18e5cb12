"""Routes that load and unload adapters while a worker serves, by the names that vLLM has for them."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from mafunzo.compute.inference.http.service import Service, json_body
from mafunzo.errors import InvalidParameter


def add_adapter_routes(app: FastAPI, service: Service) -> None:
    """Add the routes. `GET /v1/models` lists what is loaded."""

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        name, path = _texts(await json_body(request), "lora_name", "lora_path")
        await asyncio.to_thread(service.load_adapter, name, Path(path))
        return JSONResponse({"loaded": name})

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        (name,) = _texts(await json_body(request), "lora_name")
        await asyncio.to_thread(service.unload_adapter, name)
        return JSONResponse({"unloaded": name})


def _texts(body: Any, *names: str) -> list[str]:
    """Return the values of a body that has just these, each a text; raises `InvalidParameter`."""
    is_right = isinstance(body, dict) and set(body) == set(names) and all(isinstance(v, str) for v in body.values())
    if not is_right:
        raise InvalidParameter(f"The body is {body!r}, expected an object with the texts {', '.join(names)}.")
    return [body[name] for name in names]
