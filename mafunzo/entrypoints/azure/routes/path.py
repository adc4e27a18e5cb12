"""The prefixes of route paths on Azure's wire, and the normalization of request paths before routing."""

from starlette.types import ASGIApp, Receive, Scope, Send

from mafunzo.entrypoints.azure.wire.envelope import PROVIDER, plain_path

OF_SUBSCRIPTION = f"/subscriptions/{{subscription}}/providers/{PROVIDER}"
OF_GROUP = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}"
WS = f"{OF_GROUP}/workspaces/{{workspace}}"
REG = f"{OF_GROUP}/registries/{{registry}}"


class NormalPaths:
    """Middleware that normalizes every path before routing: without the service's prefix, its known parts in one spelling."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": plain_path(scope["path"])}
        await self.app(scope, receive, send)
