"""The real Azure SDK over an application in this process: no port, no server, no TLS."""

import io
import time
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPResponse

from mafunzo.entrypoints.azure.client.environment import workspace_config
from tests.support.azure_bench import BASE, Bench


class _InProcess(BaseAdapter):
    """Hands a request of the SDK to the application, whatever host it is for."""

    def __init__(self, http: Any) -> None:
        super().__init__()
        self._http = http

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        answer = self._http.request(
            request.method, request.path_url, headers=dict(request.headers), content=request.body
        )
        body = io.BytesIO(answer.content)
        raw = HTTPResponse(body, headers=answer.headers, status=answer.status_code, preload_content=False)
        return HTTPAdapter().build_response(request, raw)

    def close(self) -> None:
        """Do nothing: there is no connection."""


def sdk_client(bench: Bench) -> Any:
    """Return an `MLClient` of the bench's workspace, as its owner."""
    from azure.ai.ml import MLClient
    from azure.core.credentials import AccessToken
    from azure.core.pipeline.transport import RequestsTransport

    token, _ = bench.identity.token(BASE, bench.identity.owner)

    class Credential:
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            return AccessToken(token, int(time.time()) + 3600)

    session = requests.Session()
    session.mount("https://", _InProcess(bench.owner.http))
    transport = RequestsTransport(session=session, session_owner=False)
    return MLClient(Credential(), *workspace_config().values(), transport=transport)
