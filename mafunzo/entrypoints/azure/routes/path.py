"""Where things are on Azure's wire: the paths that routes begin with, and how every path is spelled before it is matched."""

from starlette.types import ASGIApp, Receive, Scope, Send

from mafunzo.entrypoints.azure.wire.envelope import PROVIDER, plain_path

OF_SUBSCRIPTION = f"/subscriptions/{{subscription}}/providers/{PROVIDER}"
OF_GROUP = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}"
WS = f"{OF_GROUP}/workspaces/{{workspace}}"
REG = f"{OF_GROUP}/registries/{{registry}}"


class NormalPaths:
    """Spells every path in one way before it is matched, whatever the service's name in front of it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": plain_path(scope["path"])}
        await self.app(scope, receive, send)
