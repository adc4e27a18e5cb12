"""Routes by which the server proves that serving equals training: token ids, and what the model stops at.

The log-probabilities that it compares too are text completions with `echo` and without new tokens (`openai.py`).
"""

import psutil
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from mafunzo.compute.inference.http.prompt import json_body, rendered
from mafunzo.compute.inference.http.service import Service
from mafunzo.protocol.chat import conversation_from_request


def add_verification_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of the comparison with the tuned model, under vLLM's names where it has them."""

    @app.get("/info")
    async def info() -> Response:
        model = service.loaded
        return JSONResponse(
            {
                "name": service.name,
                "stop_token_ids": sorted(model.engine.stop_token_ids),
                "dtype": model.dtype,
                "max_model_len": model.engine.max_model_len,
                "max_batch": model.engine.limits.max_batch,
                "parameters": model.parameters,
                "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
            }
        )

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = await json_body(request)
        if isinstance(body, dict) and "prompt" in body:
            ids = service.loaded.tokenizer(
                str(body["prompt"]), add_special_tokens=bool(body.get("add_special_tokens", True))
            )
            tokens = list(ids["input_ids"])
        else:
            conversation = conversation_from_request(body)
            tokens = rendered(service, conversation, bool(body.get("add_generation_prompt", True)))
        return JSONResponse(
            {"tokens": tokens, "count": len(tokens), "max_model_len": service.loaded.engine.max_model_len}
        )
