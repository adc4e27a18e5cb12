"""An HTTP proxy for clients that must never reach Azure: it blocks Microsoft's hosts and forwards all other requests.

The Azure SDK falls back to Microsoft's own services where ours don't answer (a browser's login, the public cloud, telemetry).
With this proxy in its environment such a request fails at once, with the reason.
"""

import asyncio
import base64
import contextlib
import ipaddress
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from mafunzo.errors import InvalidParameter

MICROSOFT = (
    "aka.ms",
    "applicationinsights.io",
    "azure.cn",
    "azure.com",
    "azure.net",
    "azure.us",
    "azureedge.net",
    "azureml.ms",
    "azureml.net",
    "chinacloudapi.cn",
    "live.com",
    "live.net",
    "microsoft.com",
    "microsoftazuread-sso.com",
    "microsoftonline.com",
    "microsoftonline.us",
    "msauth.net",
    "msftauth.net",
    "office.com",
    "trafficmanager.net",
    "usgovcloudapi.net",
    "visualstudio.com",
    "windows.net",
    "169.254.169.254",
)
"""With their subdomains; the last is the instance metadata service of cloud machines."""

REFUSED = "Refused by Mafunzo"
_HEAD_LIMIT = 64 * 1024
_HEAD_S = 30.0
_PIECE_BYTES = 65536


def is_refused(host: str) -> bool:
    """Return whether a host is Microsoft's."""
    name = host.lower().rstrip(".")
    return any(name == known or name.endswith(f".{known}") for known in MICROSOFT)


class EgressProxy:
    """Listens on a free loopback port, in a thread of its own, while it is entered.

    upstream: the proxy that the user has already (`http://user:password@host:port`), through which everything then goes.
    """

    def __init__(self, upstream: str | None = None) -> None:
        self._upstream = _Upstream.of(upstream) if upstream else None
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
            head = _Head.of(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_S))
            if is_refused(head.host):
                why = f"{head.host} is Microsoft's: nothing of this program leaves for Azure."
                await _answer(writer, 403, REFUSED, why)
            elif head.method == "CONNECT":
                await self._tunnel(head, reader, writer)
            elif "transfer-encoding" in head.headers:
                await _answer(writer, 411, REFUSED, "A plain http request needs a Content-Length here.")
            else:
                await self._forward(head, reader, writer)
        except _Unreachable as error:
            host, why = error.args
            await _answer(writer, 502, f"{host} can't be reached", why)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            await _answer(writer, 502, "Bad Gateway", str(error))
        finally:
            writer.close()

    async def _tunnel(self, head: "_Head", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tunnel a CONNECT request between client and host until both have closed."""
        to = self._upstream
        there_reader, there_writer = await self._connect(head)
        try:
            if to:
                there_writer.write(head.text(head.target, to.authorization))
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, there_writer))
                both.create_task(_copy(there_reader, writer))
        except* OSError:
            pass  # one side broke off, which ends both
        finally:
            there_writer.close()

    async def _forward(self, head: "_Head", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one plain http request, and its answer: the next one comes over a connection of its own.

        A client takes one connection for all hosts behind a proxy, and each request's host has to be looked at.
        """
        to = self._upstream
        there_reader, there_writer = await self._connect(head)
        try:
            alone = {"connection": "Connection: close", **(to.authorization if to else {})}
            there_writer.write(head.text(head.target if to else head.path, alone))
            left = int(head.headers.get("content-length", "0"))
            while left > 0 and (data := await reader.read(min(left, _PIECE_BYTES))):
                there_writer.write(data)
                await there_writer.drain()
                left -= len(data)
            await _copy(there_reader, writer)
        finally:
            there_writer.close()

    async def _connect(self, head: "_Head") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect with a request's host, or with the proxy on the way to it; raises `_Unreachable`."""
        to = self._upstream
        try:
            return await asyncio.open_connection(*((to.host, to.port) if to else (head.host, head.port)))
        except OSError as error:
            through = f", because the proxy {to.host}:{to.port} can't be reached" if to else ""
            raise _Unreachable(
                head.host, f"{head.host} can't be reached{through} ({error.strerror or error})."
            ) from error


class _Unreachable(Exception):
    """A host can't be connected to: it, and why."""


@dataclass(frozen=True)
class _Upstream:
    host: str
    port: int
    authorization: Mapping[str, str]
    """The `Proxy-Authorization` line, under the header's name; empty without a user."""

    @classmethod
    def of(cls, url: str) -> "_Upstream":
        parts = urlsplit(url if "//" in url else f"//{url}")
        try:
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port = None, 0
        if parts.scheme not in ("http", "") or host is None:
            raise InvalidParameter("HTTPS_PROXY isn't an address that can be used. Expected http://HOST:PORT.")
        if parts.username is None:
            return cls(host, port, {})
        user = base64.b64encode(f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()).decode()
        return cls(host, port, {"proxy-authorization": f"Proxy-Authorization: Basic {user}"})


@dataclass(frozen=True)
class _Head:
    """A request's line and headers. headers: by lower-case names; lines: as received."""

    method: str
    target: str
    version: str
    lines: tuple[str, ...]

    @classmethod
    def of(cls, raw: bytes) -> "_Head":
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, version = first.split(" ")
        return cls(method, target, version, tuple(lines))

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(f"//{self.target}" if self.method == "CONNECT" else self.target)

    @property
    def host(self) -> str:
        return self._parts.hostname or ""

    @property
    def port(self) -> int:
        return self._parts.port or 80

    @property
    def path(self) -> str:
        return self._parts._replace(scheme="", netloc="").geturl() or "/"

    @property
    def headers(self) -> dict[str, str]:
        return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in self.lines)}

    def text(self, target: str, instead: Mapping[str, str]) -> bytes:
        """Return the head for the next hop: `instead` holds lines by the names of the headers that they replace."""
        dropped = {*instead, "proxy-connection", "keep-alive", "proxy-authorization"}
        headers = [line for line in self.lines if line.partition(":")[0].strip().lower() not in dropped]
        lines = [f"{self.method} {target} {self.version}", *headers, *instead.values(), "", ""]
        return "\r\n".join(lines).encode("latin-1")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _answer(writer: asyncio.StreamWriter, status: int, phrase: str, why: str) -> None:
    """Send an answer of the proxy's own. Of an answer to CONNECT, most clients show the first line only."""
    if writer.is_closing():
        return
    body = why.encode()
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode("latin-1") + body)


def proxy_environment(url: str, before: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that send a program's requests through the proxy, save those to this machine."""
    proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), url)
    return {**proxies, **no_proxy_environment(before)}


def no_proxy_environment(before: Mapping[str, str], host: str = "127.0.0.1") -> dict[str, str]:
    """Return the NO_PROXY variables: this machine, the server, and the user's own entries.

    Entries that cover a host of Microsoft's are left out.
    """
    names = [name.strip() for key in ("NO_PROXY", "no_proxy") for name in before.get(key, "").split(",")]
    spared = [name for name in names if name and not _spares_microsoft(name)]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(dict.fromkeys(["127.0.0.1", "localhost", host, *spared])))


def _spares_microsoft(name: str) -> bool:
    """Return whether an entry of NO_PROXY covers one of Microsoft's hosts: itself, all below it, or what it is below."""
    bare = name.lower().removeprefix("*").lstrip(".").split(":")[0]
    if "/" in bare:
        with contextlib.suppress(ValueError):
            network = ipaddress.ip_network(bare, strict=False)
            return any(ipaddress.ip_address(host) in network for host in MICROSOFT if host[0].isdigit())
    return not bare or is_refused(bare) or any(known.endswith(f".{bare}") for known in MICROSOFT)
