"""Health routes: readiness, the model that is served, and Prometheus metrics."""

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from mafunzo.compute.inference.http.service import Service


def add_health_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of supervisors and operators."""

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse(
            {"status": "loading" if service.model is None else "ready"}, 503 if service.model is None else 200
        )

    @app.get("/v1/models")
    async def models() -> Response:
        engine = service.loaded.engine
        model = {"id": service.name, "object": "model", "created": service.created, "owned_by": "mafunzo"}
        return JSONResponse({"object": "list", "data": [model | {"max_model_len": engine.max_model_len}]})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.render(), media_type="text/plain; version=0.0.4")
