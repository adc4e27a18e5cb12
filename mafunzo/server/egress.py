"""A proxy for clients that must never reach Azure: it refuses Microsoft's hosts and lets all others through.

The Azure SDK falls back to Microsoft's own services where ours don't answer (a browser's login, the public cloud, telemetry).
With this proxy in its environment such a request fails at once, with the reason.
"""

import asyncio
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from mafunzo.errors import InvalidParameter

MICROSOFT = (
    "aka.ms",
    "applicationinsights.io",
    "azure.com",
    "azure.net",
    "azureedge.net",
    "azureml.ms",
    "azureml.net",
    "live.com",
    "live.net",
    "microsoft.com",
    "microsoftazuread-sso.com",
    "microsoftonline.com",
    "msauth.net",
    "msftauth.net",
    "office.com",
    "trafficmanager.net",
    "visualstudio.com",
    "windows.net",
    "169.254.169.254",
)
"""With all that is below them; the last is where a machine in a cloud asks for its own identity."""

_HEAD_LIMIT = 64 * 1024
_HEAD_S = 30.0


def is_refused(host: str) -> bool:
    """Return whether a host is Microsoft's."""
    name = host.lower().rstrip(".")
    return any(name == known or name.endswith(f".{known}") for known in MICROSOFT)


class EgressProxy:
    """Listens on a free loopback port, in a thread of its own, while it is entered.

    upstream: the proxy that the user has already (`http://host:port`), through which everything then goes.
    """

    def __init__(self, upstream: str | None = None) -> None:
        parts = urlsplit(upstream or "")
        if upstream and (parts.scheme not in ("http", "") or not parts.hostname):
            raise InvalidParameter(f"HTTPS_PROXY is '{upstream}', expected http://HOST:PORT.")
        self._upstream = (parts.hostname, parts.port or 80) if parts.hostname else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True, name="egress proxy")
        self.port = 0

    def __enter__(self) -> "EgressProxy":
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_S)
            method, target, version = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
            host, port = parts.hostname or "", parts.port or 80
            if is_refused(host):
                await _refuse(writer, 403, f"{host} is Microsoft's: nothing of this program leaves for Azure.")
            elif method == "CONNECT" or self._upstream:
                await self._tunnel(method, head, host, port, reader, writer)
            else:
                path = parts._replace(scheme="", netloc="").geturl() or "/"
                rest = head.split(b"\r\n", 1)[1]
                await self._join(host, port, f"{method} {path} {version}\r\n".encode("latin-1") + rest, reader, writer)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            await _refuse(writer, 502, str(error))
        finally:
            writer.close()

    async def _tunnel(
        self, method: str, head: bytes, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._upstream:
            await self._join(*self._upstream, head, reader, writer)
            return
        assert method == "CONNECT"
        await self._join(host, port, b"", reader, writer, b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def _join(
        self,
        host: str,
        port: int,
        first: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        greeting: bytes = b"",
    ) -> None:
        """Copy both ways between a client and a host until either ends."""
        there_reader, there_writer = await asyncio.open_connection(host, port)
        try:
            there_writer.write(first)
            writer.write(greeting)
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, there_writer))
                both.create_task(_copy(there_reader, writer))
        except* OSError:
            pass  # one side broke off, which ends both
        finally:
            there_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _refuse(writer: asyncio.StreamWriter, status: int, why: str) -> None:
    if writer.is_closing():
        return
    body = why.encode()
    head = f"HTTP/1.1 {status} Refused by Mafunzo\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode("latin-1") + body)


def proxy_environment(url: str, before: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that send a program's requests through the proxy, save those to this machine."""
    spared = [name for key in ("NO_PROXY", "no_proxy") for name in before.get(key, "").split(",") if name]
    no_proxy = ",".join(dict.fromkeys(["127.0.0.1", "localhost", *spared]))
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
    return {**dict.fromkeys(names, url), "NO_PROXY": no_proxy, "no_proxy": no_proxy}
