"""A fuzzer of the server's two ports over raw sockets: every request follows from a seed and a number.

It begins with requests that are right (of every route that the applications have), and breaks them: other values, other bodies,
wrong keys, bytes that are flipped, cut or doubled, lengths that lie, chunks that don't add up, TLS that is none. A request that
isn't signed right asks for things called `evil`, of which none may be there afterwards; the others for things called `fuzz`.
"""

import http.client
import json
import random
import re
import socket
import ssl
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

from fastapi import FastAPI

from mafunzo import Workspace
from mafunzo.entrypoints.azure.application import create_azure_app
from mafunzo.entrypoints.azure.client.environment import Access, access_of_home
from mafunzo.entrypoints.azure.context import AzureContext
from mafunzo.entrypoints.azure.wire.envelope import (
    CONTAINER,
    PROVIDER,
    REGISTRY,
    RESOURCE_GROUP,
    SUBSCRIPTION,
    WORKSPACE,
)
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.limits import Limits
from mafunzo.entrypoints.mlflow import routes as mlflow
from mafunzo.entrypoints.serve.application import create_app
from tests.support import payload

WORKERS = 6
IDLE_S = 0.25
"""How long the fuzzer waits for more of an answer: a request that isn't whole gets none."""
PATIENCE_S = 300.0
"""A request without an end after so long hangs: far more than a loaded machine needs."""
EVERY = 10
"""Of so many broken requests, a right one follows."""
RIGHT_5XX = frozenset({501, 505, 507})
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass
class Result:
    """What a run has met. `faults` must be empty."""

    seed: int
    requests: int = 0
    right_requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Fuzzer:
    """Broken and right requests to the server of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        address = workspace.up()
        self.port, self.https_port = address.port, address.https_port
        self._authority = workspace.home.root / "tls" / "authority.pem"
        self._trusting = ssl.create_default_context(cafile=self._authority)
        self._token = self._ask_token(access_of_home(workspace.home, address, workspace.user))
        self._sas = self._ask_sas()
        self._operator_key = (workspace.home.root / "operator.key").read_text().strip()
        plain, azure = applications()
        self._routes = {False: _routes(plain), True: _routes(azure)}

    def run(self, seed: int, count: int) -> Result:
        """Send `count` broken requests, with a right one after every tenth."""
        result = Result(seed)
        with ThreadPoolExecutor(WORKERS) as pool:
            for done in pool.map(lambda number: self._one(seed, number), range(count)):
                result.requests += 1
                result.kinds[done.kind] += 1
                result.statuses.update(done.statuses or ["none"])
                result.faults += done.faults
                result.right_requests += done.has_right_one
        return result

    def check_right_requests(self) -> list[str]:
        """Return what is wrong with the answers to requests that are right."""
        faults = []
        ws = self._path(
            f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}/workspaces/{{workspace}}"
        )
        for tls, method, path, body, expected in (
            (False, "GET", "/healthz", b"", b'"status":"ok"'),
            (True, "GET", ws, b"", b'"name":"mafunzo"'),
            (True, "GET", f"{ws}/computes", b"", b'"value":'),
            (True, "PUT", f"{payload.BLOBS}/{CONTAINER}/right?{self._sas}", b"right", b""),
            (True, "GET", f"{payload.BLOBS}/{CONTAINER}/right?{self._sas}", b"", b"right"),
        ):
            status, content = self._ask(tls, method, path, body)
            if status not in (200, 201) or expected not in content:
                faults.append(f"{method} {path.partition('?')[0]}: {status} {content[:200]!r}")
        return faults

    def options(self, tls: bool) -> dict[str, Any]:
        """Return what a client of `requests` needs to ask one of the ports, as somebody who may."""
        scheme, port, key = ("https", self.https_port, self._token) if tls else ("http", self.port, self._operator_key)
        headers = {"Authorization": f"Bearer {key}"}
        return {
            "base_url": f"{scheme}://127.0.0.1:{port}",
            "headers": headers,
            "verify": str(self._authority),
            "timeout": PATIENCE_S,
        }

    # One broken request

    def _one(self, seed: int, number: int) -> "_Done":
        rng = random.Random(f"{seed}/{number}")
        kind = rng.choice(sorted(KINDS))
        tls, request = KINDS[kind](self, rng)
        done = _Done(kind)
        try:
            content = self._send(tls, request, rng)
        except TimeoutError:
            done.faults.append(f"request {number} of seed {seed} ({kind}): no end of the answer within {PATIENCE_S} s")
            content = b""
        found = [int(status) for status in STATUS.findall(content)]
        done.statuses = [f"{status // 100}xx" for status in found]
        if any(status >= 500 and status not in RIGHT_5XX for status in found):
            done.faults.append(f"request {number} of seed {seed} ({kind}): {request[:1000]!r} -> {content[:300]!r}")
        if number % EVERY == 0:
            done.has_right_one = True
            done.faults += [f"after request {number} of seed {seed}: {fault}" for fault in self.check_right_requests()]
        return done

    def whole(self, rng: random.Random, is_signed: bool | None = None) -> tuple[bool, "Request"]:
        """Return a request of some route that nothing is wrong with but its values, and whether it goes to the TLS port."""
        tls = rng.random() < 0.8
        method, template = rng.choice(self._routes[tls])
        signed = rng.random() < 0.7 if is_signed is None else is_signed
        if "mlflow" in template or (not tls and rng.random() < 0.5):
            signed = False  # what MLflow itself answers to nonsense isn't ours
        name = "fuzz" if signed else "evil"
        path = self._path(template, lambda part: payload.value_of(rng, part, name))
        headers = {"Host": f"127.0.0.1:{self.https_port if tls else self.port}", "Connection": "close"}
        query = payload.query(rng)
        if template.startswith(payload.BLOBS):
            query = f"{self._sas if signed else payload.wrong_sas(rng, self._sas)}&{query}"
            headers |= payload.blob_headers(rng, method)
        else:
            key = (self._token if tls else self._operator_key) if signed else payload.wrong_token(rng, self._token)
            headers |= {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body = payload.body(rng, template, name) if method in ("PUT", "POST", "PATCH") else b""
        return tls, Request(method, f"{path}?{query}", headers, body)

    def _path(self, template: str, value: "Callable[[str], str] | None" = None) -> str:
        known = {"subscription": SUBSCRIPTION, "group": RESOURCE_GROUP, "workspace": WORKSPACE, "registry": REGISTRY}
        return re.sub(
            r"\{([^}:]+)[^}]*\}",
            lambda part: known.get(part[1]) or (value(part[1]) if value else part[1]),
            template,
        )

    def _send(self, tls: bool | None, request: bytes, rng: random.Random) -> bytes:
        """Send bytes, in one piece or in several, and return what comes back; no TLS where `tls` is None."""
        port = self.port if tls is False else self.https_port
        with suppress(ConnectionError, ssl.SSLError), self._connected(port, bool(tls)) as connection:
            cut = rng.randrange(len(request) + 1) if rng.random() < 0.2 else len(request)
            connection.sendall(request[:cut])
            if cut < len(request):
                connection.sendall(request[cut:])
            return _answer(connection)
        return b""

    @contextmanager
    def _connected(self, port: int, tls: bool) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not tls:
                yield plain
                return
            with self._trusting.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
                yield wrapped

    # Right requests

    def _ask(self, tls: bool, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        if tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.https_port, timeout=PATIENCE_S, context=self._trusting
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        headers = {"x-ms-blob-type": "BlockBlob", "Connection": "close"}
        if payload.BLOBS not in path:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError as error:
            return 0, repr(error).encode()
        finally:
            connection.close()

    def _ask_token(self, access: Access) -> str:
        request = urllib.request.Request(f"{access.url}/msi/token?resource={quote(access.url)}")
        request.add_header("X-IDENTITY-HEADER", access.secret)
        with urllib.request.urlopen(request, context=self._trusting) as answer:
            return str(json.load(answer)["access_token"])

    def _ask_sas(self) -> str:
        ws = self._path(
            f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}/workspaces/{{workspace}}"
        )
        body = json.dumps({"expirableSecret": True}).encode()
        status, content = self._ask(True, "POST", f"{ws}/datastores/workspaceblobstore/listSecrets", body)
        assert status == 200, content
        return str(json.loads(content)["sasToken"])


@dataclass
class Request:
    """The parts of a request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    def bytes(self, more: str = "", body: bytes | None = None, version: str = "HTTP/1.1") -> bytes:
        """Return it as it goes over the wire, with `more` header lines; a `body` replaces its own and its length."""
        length = f"Content-Length: {len(self.body)}\r\n" if body is None else ""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        head = f"{self.method} {self.target} {version}\r\n{lines}{length}{more}\r\n"
        return head.encode("latin-1", "replace") + (self.body if body is None else body)


@dataclass
class _Done:
    kind: str
    statuses: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    has_right_one: bool = False


def applications() -> tuple[FastAPI, FastAPI]:
    """Return the applications of both ports, of which only the routes are looked at."""
    serving = SimpleNamespace(audit=None, names=None, limits=Limits())
    azure = cast(AzureContext, SimpleNamespace(serving=serving))
    return create_app(cast(Context, serving), [mlflow.router]), create_azure_app(azure, [mlflow.router])


def _routes(app: FastAPI) -> list[tuple[str, str]]:
    """Return every method and path of an application, and one that it hasn't."""
    paths: dict[str, dict[str, Any]] = app.openapi()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods] + [("GET", "/{nothing}")]


def _answer(connection: socket.socket) -> bytes:
    """Return what comes, until it is a whole answer, the server closes the connection, or nothing comes for a while."""
    found = b""
    connection.settimeout(IDLE_S)
    with suppress(ConnectionError, ssl.SSLError, TimeoutError):
        while chunk := connection.recv(65536):
            found += chunk
            head, _, rest = found.partition(b"\r\n\r\n")
            length = LENGTH.search(head + b"\r\n")
            if length and len(rest) == int(length[1]):
                break
    return found


# The ways in which requests are broken: each returns the port (TLS, plain, or None for no TLS on the TLS port) and bytes

Broken = tuple[bool | None, bytes]


def _values(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    tls, request = fuzzer.whole(rng)
    return tls, request.bytes()


def _flipped(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    """A few bytes are others. A signed request could then store something under any name, so it isn't signed."""
    tls, request = fuzzer.whole(rng, is_signed=False)
    return tls, payload.flip(rng, request.bytes())


def _flipped_body(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    tls, request = fuzzer.whole(rng)
    request.body = payload.flip(rng, request.body or b"{}")
    return tls, request.bytes()


def _half(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    tls, request = fuzzer.whole(rng)
    whole = request.bytes()
    return tls, whole[: rng.randrange(len(whole))]


def _lying_length(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    tls, request = fuzzer.whole(rng)
    lie = rng.choice(
        ["-1", "0", "+5", "1e3", "99999999999999999999", "0x10", "", " ", "5, 5", "5\r\nContent-Length: 6", "²"]
    )
    return tls, request.bytes(f"Content-Length: {lie}\r\n", body=request.body or b"abcdef")


def _chunked(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    tls, request = fuzzer.whole(rng)
    return tls, request.bytes("Transfer-Encoding: chunked\r\n", body=payload.chunks(rng, request.body))


def _odd_headers(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    tls, request = fuzzer.whole(rng)
    return tls, request.bytes(payload.odd_headers(rng))


def _odd_line(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    tls, request = fuzzer.whole(rng, is_signed=False)
    request.method = rng.choice(
        ["", "get", "G E T", "BREW", "CONNECT", "TRACE", "PRI", "OPTIONS", "é", "A" * 5000, "GET\0"]
    )
    request.target = rng.choice(
        [request.target, "*", "", "http://evil/" + request.target, "//evil", "/\0", "/%", "?" * 99]
    )
    version = rng.choice(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1 x", "", "http/1.1", "HTTP/9" * 99])
    return tls, request.bytes(version=version)


def _pipelined(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    tls, first = fuzzer.whole(rng)
    first.headers.pop("Connection")
    _, second = fuzzer.whole(rng, is_signed=False)
    return tls, first.bytes() * rng.randint(1, 5) + rng.choice(
        [second.bytes(), payload.flip(rng, second.bytes()), b"\r\n"]
    )


def _noise(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    return rng.choice([True, False]), payload.noise(rng)


def _tls_rubbish(fuzzer: Fuzzer, rng: random.Random) -> Broken:
    """What is no TLS, on the port that speaks it; and TLS on the one that doesn't."""
    hello = bytes.fromhex("16030100c8010000c40303") + rng.randbytes(196)
    rubbish = rng.choice([hello, hello[: rng.randrange(len(hello))], payload.flip(rng, hello), payload.noise(rng)])
    return rng.choice([None, None, False]), rubbish


KINDS: dict[str, Callable[[Fuzzer, random.Random], Broken]] = {
    "values": _values,
    "values and body": _values,
    "flipped": _flipped,
    "flipped body": _flipped_body,
    "half": _half,
    "lying length": _lying_length,
    "chunked": _chunked,
    "odd headers": _odd_headers,
    "odd line": _odd_line,
    "pipelined": _pipelined,
    "noise": _noise,
    "TLS rubbish": _tls_rubbish,
}


def stored(workspace: Workspace) -> set[str]:
    """Return the name of everything that a home holds, and every file of it that isn't named by its content or a log."""
    records = workspace.records
    names = {f"asset {asset.key}" for asset in records.assets.list(with_archived=True)}
    names |= {f"job {job.name}" for job in records.jobs.list()}
    names |= {f"endpoint {endpoint.name}" for endpoint in records.endpoints.list()}
    names |= {f"compute {compute.name}" for compute in workspace.computes.list()}
    for container in workspace.blobs.containers():
        names |= {f"blob {container.name}/{blob.name}" for blob in workspace.blobs.list(container.name)}
    return names | {f"file {path}" for path in _files(workspace.home.root)}


def _files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        if relative.parts[0] not in ("artifacts", "logs", "database", "jobs") and path.is_file():
            yield relative
