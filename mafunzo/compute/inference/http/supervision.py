"""Routes for supervisors and operators: readiness, metrics, and the proof that serving equals training.

For the proof the server asks for token ids and for what the model stops at, under vLLM's names where it has them. The
log-probabilities that it compares too are text completions with `echo` and without new tokens (`openai.py`).
"""

from typing import Any

import psutil
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from mafunzo.compute.inference.http.service import Service, json_body, model_of
from mafunzo.protocol.chat import conversation_from_request


def add_supervision_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse(
            {"status": "loading" if service.model is None else "ready"}, 503 if service.model is None else 200
        )

    @app.get("/v1/models")
    async def models() -> Response:
        length = {"max_model_len": service.loaded.engine.max_model_len}
        adapters = [_model(one) | length | {"parent": service.name} for one in list(service.adapters.values())]
        return JSONResponse({"object": "list", "data": [_model(service) | length, *adapters]})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.render(), media_type="text/plain; version=0.0.4")

    @app.get("/info")
    async def info(request: Request) -> Response:
        answering = service.named(request.query_params.get("model"))
        model = answering.loaded
        return JSONResponse(
            {
                "name": answering.name,
                "stop_token_ids": sorted(model.stop_token_ids),
                "engine": model.choice.engine,
                "dtype": model.dtype,
                "max_model_len": model.engine.max_model_len,
                "max_batch": model.engine.max_batch,
                "parameters": model.parameters,
                "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
            }
        )

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = await json_body(request)
        answering = service.named(model_of(body))
        if isinstance(body, dict) and "prompt" in body:
            ids = answering.loaded.tokenizer(
                str(body["prompt"]), add_special_tokens=bool(body.get("add_special_tokens", True))
            )
            tokens = list(ids["input_ids"])
        else:
            conversation = conversation_from_request(body)
            tokens = answering.prompt_ids(conversation, bool(body.get("add_generation_prompt", True)))
        return JSONResponse(
            {"tokens": tokens, "count": len(tokens), "max_model_len": service.loaded.engine.max_model_len}
        )


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "mafunzo"}
