"""Which web pages may read the endpoints' answers (CORS): none, unless the operator lists where they come from."""

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from mafunzo.entrypoints.http.forwarding import ANSWER_HEADER, NAMES_DEPLOYMENT
from mafunzo.entrypoints.http.request_id import HEADER
from mafunzo.errors import Faults

ANY = "*"
PATHS = ("/v1/", "/endpoints/")
"""What asks endpoints, in OpenAI's dialect and in Azure's. No page may read anything else."""
PREFLIGHT_S = 600
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", re.IGNORECASE)


def require_origins(origins: Sequence[str]) -> None:
    """Raise `InvalidParameter` for what isn't the origin of a page, with all faults."""
    faults = Faults()
    faults.add(
        *(
            f"MAFUNZO_CORS_ORIGINS has '{origin}', expected {ANY} for all pages, or an origin such as "
            "https://chat.example.org: no path, no slash at its end."
            for origin in origins
            if origin != ANY and not _ORIGIN.fullmatch(origin)
        )
    )
    faults.require_none("The pages that may ask can't be read from the environment.")


class Cors:
    """An ASGI application that lets pages of `origins` ask the endpoints of `app`, with the endpoint's key as everybody."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app,
            allow_origins=[origin.lower() for origin in origins],
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=[HEADER, "retry-after", ANSWER_HEADER, *NAMES_DEPLOYMENT],
            max_age=PREFLIGHT_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] == "http" and scope["path"].startswith(PATHS)
        await (self._open if is_open else self._app)(scope, receive, send)
