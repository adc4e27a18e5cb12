"""Asking an endpoint in Azure's dialect: `POST /endpoints/<endpoint>/score`, with the endpoint's key."""

import asyncio
import json
import random
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.entities.endpoint import Deployment
from mafunzo.errors import WorkerFailed
from mafunzo.server.auth import bearer
from mafunzo.server.azure_context import azure_context
from mafunzo.server.body import limited_json
from mafunzo.server.context import Context
from mafunzo.server.openai import NAMES_DEPLOYMENT
from mafunzo.serving.traffic import pick
from mafunzo.wire.azureml.endpoint import scoring_path
from mafunzo.wire.azureml.scoring import answer_body, requests_from_body

router = APIRouter()


@router.post(scoring_path("{endpoint}"))
async def score(request: Request, endpoint: str) -> Response:
    """Answer every conversation of a request; an error of any is the answer, with its own status."""
    serving = azure_context(request).serving
    entry = (await serving.directory.newest()).find(bearer(request.headers), endpoint)
    asked, is_list = requests_from_body(await limited_json(request, serving.limits.chat_body_bytes), endpoint)
    named = next((request.headers[name] for name in NAMES_DEPLOYMENT if name in request.headers), None)
    deployment = pick(entry.endpoint, entry.deployments, named, random.random())
    tasks = [asyncio.create_task(_ask(serving, deployment, body)) for body in asked]
    try:
        answers = await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # where one broke off, nobody waits for the others
            task.cancel()
    broken = next((answer for status, answer in answers if status != 200), None)
    headers = dict.fromkeys(NAMES_DEPLOYMENT, deployment.name)
    if broken is not None:
        status = next(status for status, _ in answers if status != 200)
        return JSONResponse(broken, status_code=status, headers=headers)
    return JSONResponse(answer_body([answer for _, answer in answers], is_list), headers=headers)


async def _ask(serving: Context, deployment: Deployment, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the worker's status and JSON answer; raises `WorkerFailed` for another answer."""
    content = json.dumps(body).encode()
    answer = await serving.router.forward(
        deployment, "/v1/chat/completions", content, {"content-type": "application/json"}
    )
    text = await answer.read()
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise WorkerFailed(
            f"The worker of {deployment.endpoint}/{deployment.name} answered HTTP {answer.status} without JSON. "
            f"Its log says why: mafunzo endpoint logs {deployment.endpoint}"
        ) from error
    return answer.status, found
