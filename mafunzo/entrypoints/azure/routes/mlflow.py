"""MLflow for `azureml-mlflow`, which comes to the https port with a token of Azure's dialect."""

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from mafunzo.entrypoints.azure.context import azure_context
from mafunzo.entrypoints.azure.wire.envelope import WS
from mafunzo.errors import NotFound

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

router = APIRouter(prefix="/mlflow")


@router.api_route(f"/{{version}}{WS}/{{path:path}}", methods=METHODS, include_in_schema=False, name="mlflow")
async def for_azure(request: Request, path: str) -> Response:
    """Answer `azureml-mlflow`, whose token has been checked, with addresses of files that its MLflow can read."""
    context = azure_context(request)
    if context.mlflow is None:
        raise NotFound("This server has no MLflow.")
    answer = await context.mlflow.answer(request, context.caller, path)
    if not str(answer.headers.get("content-type")).startswith("application/json"):
        return answer
    root = f'"{context.mlflow_uri}/api/2.0/mlflow-artifacts/artifacts/'.encode()
    body = (await _body_of(answer)).replace(context.mlflow.artifact_root, root)
    return Response(body, answer.status_code, media_type="application/json")


async def _body_of(answer: Response) -> bytes:
    if isinstance(answer, StreamingResponse):
        return b"".join([part async for part in answer.body_iterator if isinstance(part, bytes)])
    return bytes(answer.body)
