"""Asking an endpoint of a running server in OpenAI's dialect: whole answers, and streams."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mafunzo.errors import (
    Forbidden,
    InvalidParameter,
    MafunzoError,
    NotFound,
    RateLimitExceeded,
    TimedOut,
    Unauthorized,
    Unavailable,
    WorkerFailed,
)

_KINDS = (InvalidParameter, Unauthorized, Forbidden, NotFound, RateLimitExceeded, Unavailable, TimedOut)
_ERRORS: Mapping[int, type[MafunzoError]] = {kind.status: kind for kind in _KINDS} | {422: InvalidParameter}
"""By the status of the answer; any other is `WorkerFailed`."""


@dataclass(frozen=True)
class ChatClient:
    """Asks one endpoint. url: where OpenAI's SDK finds the server (`base_url`). deployment: the one that answers, or any."""

    url: str
    endpoint: str
    key: str = field(repr=False)
    deployment: str | None = None

    def chat(self, messages: Sequence[Mapping[str, Any]], **parameters: Any) -> str:
        """Return the reply to `messages`; `parameters` are OpenAI's (`temperature`, `max_tokens` ...)."""
        answer = self.invoke({"messages": [dict(message) for message in messages], **parameters})
        return str(answer["choices"][0]["message"]["content"])

    def stream(self, messages: Sequence[Mapping[str, Any]], **parameters: Any) -> Iterator[str]:
        """Yield the reply piece by piece, as the model writes it."""
        import httpx

        body = {"model": self.endpoint, "messages": [dict(m) for m in messages], "stream": True, **parameters}
        with (
            httpx.Client(timeout=None, trust_env=False) as client,
            client.stream("POST", self._address, json=body, headers=self._headers) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise _error(answer.status_code, answer.text)
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield from _pieces(json.loads(line.removeprefix("data: ")))

    def invoke(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send OpenAI's request as it is; return its JSON answer.

        Raises what its status stands for: `Unauthorized`, `InvalidParameter`, `NotFound`, `RateLimitExceeded`, `Unavailable`,
        `TimedOut`, else `WorkerFailed`.
        """
        import httpx

        with httpx.Client(timeout=None, trust_env=False) as client:
            answer = client.post(self._address, json={**body, "model": self.endpoint}, headers=self._headers)
        if answer.status_code != 200:
            raise _error(answer.status_code, answer.text)
        content: dict[str, Any] = answer.json()
        return content

    @property
    def _address(self) -> str:
        return f"{self.url}/chat/completions"

    @property
    def _headers(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.key}"}
        return headers | ({"mafunzo-deployment": self.deployment} if self.deployment else {})


def _pieces(event: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text of one event of a stream; raises `WorkerFailed` for an error in its middle."""
    if "error" in event:
        raise WorkerFailed(str(event["error"].get("message", event["error"])))
    for choice in event["choices"]:
        yield choice["delta"].get("content") or ""


def _error(status: int, text: str) -> MafunzoError:
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text[:500]
    return _ERRORS.get(status, WorkerFailed)(f"The endpoint answered {status}: {message}")
