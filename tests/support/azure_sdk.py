"""The real Azure SDK over an application in this process: no port, no server, no TLS."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPResponse

from mafunzo.entrypoints.azure.client.environment import workspace_config
from mafunzo.entrypoints.azure.wire.envelope import SUFFIX
from tests.support.azure_bench import BASE, Bench


class _InProcess(BaseAdapter):
    """Hands a request of the SDK to the application, whatever host it is for."""

    def __init__(self, http: Any) -> None:
        super().__init__()
        self._http = http

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        path = request.path_url.replace(".blob.core.windows.net", f".blob.{SUFFIX}")
        answer = self._http.request(request.method, path, headers=dict(request.headers), content=request.body)
        body = io.BytesIO(answer.content)
        raw = HTTPResponse(body, headers=answer.headers, status=answer.status_code, preload_content=False)
        return HTTPAdapter().build_response(request, raw)

    def close(self) -> None:
        """Do nothing: there is no connection."""


@contextmanager
def sdk_client(bench: Bench) -> Iterator[Any]:
    """Give an `MLClient` of the bench's workspace, as its owner; what it uploads goes there too."""
    from azure.ai.ml import MLClient
    from azure.core.credentials import AccessToken

    class Credential:
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            audience = scopes[0].removesuffix("/.default")
            is_kept = audience == "https://ml.azure.com"  # the SDK looks at that token, and the server at the other
            token, _ = bench.identity.token(audience if is_kept else BASE, bench.identity.owner)
            return AccessToken(token, int(time.time()) + 3600)

    adapter = _InProcess(bench.owner.http)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.Session, "get_adapter", lambda *_, **__: adapter)
        yield MLClient(Credential(), *workspace_config().values())
