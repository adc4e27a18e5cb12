"""A reverse proxy: every request to a deployment, in whichever dialect, is limited, counted, logged and forwarded here.

A worker speaks OpenAI's dialect under its endpoint's name, so its answer is passed back as it comes; only its id is
another one, which names what gave it.

No request depends on another's fate: each has a connection of its own to the worker, and one that a worker left unanswered,
because it was killed or broke, is sent once more: to the same worker or another of its deployment, to another deployment, or to
the next worker of this one. One that comes to an idle deployment waits for the worker that it wakes.
"""

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp

from mafunzo.control.serving.answer import Answer, LateAnswer, WorkerAnswer
from mafunzo.control.serving.answer_id import KINDS, new_id
from mafunzo.control.serving.load import Loads
from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.control.serving.mirror import Copy, Mirror, Record
from mafunzo.control.serving.named_answer import NamedAnswer
from mafunzo.control.serving.queue import LOOK_S, NoWorker, Queues, Slot
from mafunzo.control.serving.quota import Quotas
from mafunzo.control.serving.rate import Permit, Rates
from mafunzo.control.serving.request_log import RequestLog, entry_of
from mafunzo.control.serving.token_count import TokenCount
from mafunzo.control.serving.traffic import is_live, live_workers, pick, returning, with_adapter
from mafunzo.control.serving.worker_folder import worker_token
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.entities.rate_limit import RateState
from mafunzo.errors import MafunzoError, RateLimitExceeded, TimedOut, Unavailable, WorkerFailed

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
RESEND_S = 0.05
"""How long a request waits before it goes to the same worker again: one that was killed takes connections until it is gone."""
ANSWERED = 200
RETRIES = 1
"""How often a request that a worker took and left unanswered is sent again."""
REQUESTS_AT_ONCE = 16
"""As many sequences as a worker generates at once (its `--max-batch`)."""
PASSED_REQUEST_HEADERS = ("content-type", "accept", "x-request-id")
PASSED_RESPONSE_HEADERS = ("content-type", "cache-control", "retry-after", "x-request-id")

Current = tuple[Endpoint, Sequence[Deployment]]
"""An endpoint and its deployments as they are now."""


class _NotReached(Exception):
    """No worker listens there: it never saw the request."""


class _Unanswered(Exception):
    """The worker took the request, and its connection ended before the status of an answer."""


class Exchange:
    """One request of a client and its answer: limited, counted and logged once, whatever ends it. A context manager.

    `status` is the answer's HTTP status, set by whoever answers; an error that leaves the context has its own. `deployment` is
    the one that answers, or is to.
    """

    def __init__(
        self,
        router: "Router",
        deployment: Deployment,
        current: Current,
        name: str | None,
        path: str,
        request_id: str,
        caller: str = "",
        tokens: int = 0,
        adapter: str | None = None,
    ) -> None:
        self.deployment, self.status, self.adapter = deployment, 200, adapter
        self._router, self._path, self._request_id = router, path, request_id
        self._current, self._name, self._caller, self._tokens = current, name, caller, tokens
        self._permit: Permit | None = None
        self._count = TokenCount()
        self._read_s = time.monotonic()
        self._gone: set[tuple[str, int, int | None]] = set()
        self._broken: set[tuple[str, int, int | None]] = set()
        self._began_s = 0.0
        self._is_relayed = False

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        try:
            self._router.begin(self.deployment, self._caller)
            self._permit = self._router.rates.admit(self._current[0], self._caller, self._tokens)
        except RateLimitExceeded as error:
            self.end(error.status)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.status = error.status if isinstance(error, MafunzoError) else MafunzoError.status
        if not self._is_relayed:
            self.end(self.status)

    async def ask(self, path: str, body: bytes, headers: Mapping[str, str], is_stream: bool = False) -> Answer:
        """Ask the deployment's worker; an exchange may ask it several times.

        `headers` in lower case; those that concern the user's connection or key aren't passed on. is_stream: whether the client
        waits for a stream, which begins with comments when the worker's answer takes long. The deployment's `request_timeout_s`
        is the limit of a whole answer, and of each pause in a stream. Raises `Unavailable`, `TimedOut` or `WorkerFailed`.
        """
        passed = {name: headers[name] for name in PASSED_REQUEST_HEADERS if name in headers}
        passed |= {"x-request-id": self._request_id} if self._request_id else {}
        passed |= {"accept-encoding": "identity"}
        copy = self._router.mirrored(self._current, path, body, passed)
        asking = self._ask(path, body, passed)
        try:
            answer = await LateAnswer.unless_soon(asking) if is_stream else await asking
        except BaseException:
            if copy is not None:
                copy.abandon()
            raise
        if copy is not None:
            answer = copy.watched(answer, lambda: self.deployment.name)
        is_counted = self._permit is not None and self._permit.counts_tokens
        return self._count.counted(answer, body) if is_counted else answer

    @property
    def rate(self) -> RateState:
        """What the caller has left of its rate limits."""
        return self._router.rates.state(self._current[0], self._caller)

    def relay(self) -> None:
        """Leave the context without an end: the answer is a stream, and whoever passes it on calls `end`."""
        self._is_relayed = True

    def end(self, status: int) -> None:
        """Write the request down: where it went and how long it took, never what was said or with which key."""
        seconds = time.monotonic() - self._began_s
        self._router.end(self.deployment, status, seconds, self._caller, self.adapter)
        if self._permit is not None:
            self._permit.settle(self._count.total)
        name = f"{self.deployment.endpoint}/{self.deployment.name}{f':{self.adapter}' if self.adapter else ''}"
        request = f", request {self._request_id}" if self._request_id else ""
        logger.info("POST %s %s %s %.3f s%s", self._path, name, status, seconds, request)

    async def _ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        timeout_s, wait = self.deployment.request_timeout_s, _Wait()
        if _is_waking(self.deployment):
            await self._wake()
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await self._try(path, body, headers, wait, limit)
        except TimeoutError as error:
            raise wait.timed_out(self.deployment, timeout_s) from error

    async def _wake(self) -> None:
        """Wait for the worker that the request wakes; its start is no time of the answer."""
        idle = self.deployment
        try:
            async with asyncio.timeout(idle.initial_delay_s):
                self._move_to(await self._find())
        except TimeoutError as error:
            raise Unavailable(
                f"Deployment '{idle.endpoint}/{idle.name}' was idle, and no worker of it was healthy after "
                f"{idle.initial_delay_s:g} s. Why: mafunzo endpoint show {idle.endpoint}"
            ) from error

    async def _wake_if_idle(self, limit: asyncio.Timeout) -> None:
        """Where the last worker ended for want of requests just when this one came: wait as any other that wakes it."""
        newest = await self._router.look(self._current[0].name, self.adapter)
        self._read(self._current if newest is None else newest)
        workers = [one for each in self._current[1] if each.name == self.deployment.name for one in each.workers]
        if workers and not live_workers(workers) and _is_waking(workers[0]):
            limit.reschedule(None)
            self._move_to(workers[0])
            await self._wake()
            limit.reschedule(asyncio.get_running_loop().time() + self.deployment.request_timeout_s)

    async def _try(
        self, path: str, body: bytes, headers: Mapping[str, str], wait: "_Wait", limit: asyncio.Timeout
    ) -> Answer:
        """Send the request until a worker answers it, `RETRIES` more times.

        A sending that no worker took doesn't count, nor one whose worker another request ended.
        """
        sendings = 0
        while True:
            with wait.for_worker():
                self._move_to(await self._find())
            queues, trial = self._router.queues, None
            try:
                with wait.in_queue():
                    trial = await queues.begin_trial(self.deployment) if sendings else None
                    slot = await queues.take(self.deployment, self._live, self._caller)
                self._move_to(slot.worker)
                if trial is not None:
                    trial.begin()
                answer = await self._router.forward(slot.worker, path, body, headers, slot)
                return self._router.named(answer, slot.worker, path, body, self.adapter)
            except NoWorker:
                await self._wake_if_idle(limit)
            except _NotReached:
                self._gone.add(_worker(self.deployment))
                await self._wake_if_idle(limit)
            except _Unanswered as error:
                deployment = self.deployment
                if trial is not None:
                    trial.convict(_worker(deployment))
                is_first = sendings == 0
                if is_first or not queues.is_anothers_fault(deployment, _worker(deployment), trial):
                    sendings += 1
                self._router.count_unanswered(deployment)
                if sendings > RETRIES:
                    raise WorkerFailed(
                        f"The worker of deployment '{deployment.endpoint}/{deployment.name}' broke off before its answer, "
                        f"{sendings} times ({error}). Its log says why: mafunzo endpoint logs {deployment.endpoint}"
                    ) from error
                self._broken.add(_worker(deployment))
                if all(_worker(one) in self._broken for one in self._live_of(deployment.name)):
                    await asyncio.sleep(RESEND_S)
            finally:
                if trial is not None:
                    trial.end()

    async def _find(self) -> Deployment:
        """Return the worker whose turn it is to be asked; wait for one that is known to come back."""
        if any(_worker(one) == _worker(self.deployment) for one in self._live_of(self.deployment.name)):
            return self.deployment
        while True:
            endpoint, deployments = self._current
            workers = [one for deployment in deployments for one in deployment.workers]
            reached = [_as_down(one) if _worker(one) in self._gone else one for one in workers]
            router = self._router
            try:
                return pick(endpoint, reached, self._name, router.draw(), router.queues.loads.busy)
            except Unavailable as error:
                newest = await self._router.look_again(endpoint.name, self.adapter)
                if newest is None or returning(*newest, self._name, 0.0) is None:
                    raise (_unreached(self.deployment) if self._gone else error) from None
                self._read(newest)

    async def _live(self) -> Sequence[Deployment]:
        """Return the workers of the deployment that take requests now."""
        if time.monotonic() - self._read_s > LOOK_S:
            newest = await self._router.look(self._current[0].name, self.adapter)
            self._read(self._current if newest is None else newest)
        return self._live_of(self.deployment.name)

    def _read(self, current: Current) -> None:
        self._current, self._read_s = current, time.monotonic()

    def _live_of(self, name: str) -> list[Deployment]:
        """Return the live workers of a deployment; those that left the request unanswered only where there's no other."""
        workers = [one for deployment in self._current[1] if deployment.name == name for one in deployment.workers]
        live = [worker for worker in live_workers(workers) if _worker(worker) not in self._gone]
        return [worker for worker in live if _worker(worker) not in self._broken] or live

    def _move_to(self, deployment: Deployment) -> None:
        """Have another deployment, or its next worker, answer."""
        self._router.move(self.deployment, deployment, self._caller)
        self.deployment = deployment


class Router:
    """The one way to the workers, for every dialect: limits, queues, metrics and the access log.

    requests_in_flight: how many requests one deployment answers or queues. requests_at_once: how many of them each of its
    workers has; the others wait in their order. loads: where they are counted. draw: a number in [0, 1) that decides among
    deployments. current: reads what is deployed under an endpoint's name, so that requests can wait for a worker that starts;
    without it they don't. secret: of the home, by which its workers' tokens are known. record: keeps how the
    answers of a mirror compare; without it nothing is mirrored. request_log: keeps prompts and answers of the
    deployments that were asked to. quotas: what callers have used today. An async context manager.
    """

    def __init__(
        self,
        metrics: RequestMetrics,
        requests_in_flight: int,
        draw: Callable[[], float] = random.random,
        requests_at_once: int = REQUESTS_AT_ONCE,
        current: Callable[[], Awaitable[Mapping[str, Current]]] | None = None,
        secret: bytes = b"",
        loads: Loads | None = None,
        record: Record | None = None,
        request_log: RequestLog | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self._secret = secret
        self._metrics, self._most_in_flight, self.draw = metrics, requests_in_flight, draw
        self._read_current = current
        self._looking: asyncio.Task[Mapping[str, Current]] | None = None
        self.queues = Queues(requests_at_once, metrics, loads or Loads())
        self.rates = Rates(quotas=quotas)
        self._mirror = Mirror(self.forward, self.queues, record) if record is not None else None
        self._request_log = request_log

    async def __aenter__(self) -> Self:
        # A connection that is used again may be about to close, as a worker's does after a fault: a new one is never.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mirror is not None:
            await self._mirror.close()
        if self._request_log is not None:
            await self._request_log.close()
        await self._session.close()

    def open(
        self,
        endpoint: Endpoint,
        deployments: Sequence[Deployment],
        deployment_name: str | None,
        path: str,
        request_id: str = "",
        caller: str = "",
        tokens: int = 0,
        adapter: str | None = None,
    ) -> Exchange:
        """Return the exchange of a request to `path`, with the deployment that it names or that its endpoint's traffic gives.

        request_id: by which the log, the worker and the client know the request. caller: whose it is, for rate limits and
        turns; tokens: how many it may take. adapter: which of the endpoint's it is for, None for the deployment's model: the
        body names it too. Raises `NotFound` for an unknown name, `Unavailable` when nothing can answer now and nothing comes
        back; entering the exchange raises `RateLimitExceeded` when the deployment has as many requests as it
        may, or the caller has asked for as much.
        """
        draw, deployments = self.draw(), with_adapter(endpoint, deployments, adapter)
        try:
            deployment = pick(endpoint, deployments, deployment_name, draw, self.queues.loads.busy)
        except Unavailable:
            back = returning(endpoint, deployments, deployment_name, draw)
            if back is None or self._read_current is None:
                raise
            deployment = back
        current = (endpoint, deployments)
        return Exchange(self, deployment, current, deployment_name, path, request_id, caller, tokens, adapter)

    def mirrored(self, current: Current, path: str, body: bytes, headers: Mapping[str, str]) -> Copy | None:
        """Return the copy of a request that goes to its endpoint's mirror too, if this one's does."""
        endpoint, deployments = current
        if self._mirror is None or not endpoint.mirror_percent:
            return None
        [(name, percent), *_] = endpoint.mirror_percent.items()
        mirror = next((one for one in deployments if one.name == name), None)
        if mirror is None or self.draw() * 100 >= percent:
            return None
        return self._mirror.copy(mirror, path, body, headers)

    def begin(self, deployment: Deployment, caller: str = "") -> None:
        """Count a request as being answered; `end` must follow, also when this raises `RateLimitExceeded`."""
        self._metrics.begin(deployment)
        self.queues.enter(deployment, caller)
        if not self.queues.has_room(deployment, caller, self._most_in_flight):
            raise RateLimitExceeded(
                f"Deployment '{deployment.endpoint}/{deployment.name}' has {self._most_in_flight} requests under way, as many "
                "as it may. Try again in a moment."
            )

    def move(self, before: Deployment, after: Deployment, caller: str = "") -> None:
        """Count a request as another deployment's; from one worker to another of the same one, nothing changes."""
        if (before.endpoint, before.name) == (after.endpoint, after.name):
            return
        self.queues.enter(after, caller)  # first, so that a queue that it stays in doesn't end meanwhile
        self.queues.leave(before, caller)
        self._metrics.move(before, after)

    def end(
        self, deployment: Deployment, status: int, seconds: float, caller: str = "", adapter: str | None = None
    ) -> None:
        """Count a request as answered."""
        self.queues.leave(deployment, caller)
        self._metrics.end(deployment, status, seconds, adapter)

    def count_unanswered(self, deployment: Deployment) -> None:
        """Count a request that a worker took and left unanswered."""
        self._metrics.leave_unanswered(deployment)

    async def forward(
        self, deployment: Deployment, path: str, body: bytes, headers: Mapping[str, str], slot: Slot
    ) -> Answer:
        """Send a request to a worker; return its answer, or its stream once that has a token. Its end frees the slot."""
        if self._secret:
            headers = {**headers, "authorization": f"Bearer {worker_token(self._secret, deployment)}"}
        try:
            response = await self._session.post(
                f"http://127.0.0.1:{deployment.port}{path}", data=body, headers=headers, allow_redirects=False
            )
            passed = {name: response.headers[name] for name in PASSED_RESPONSE_HEADERS if name in response.headers}
            answer = WorkerAnswer(response, passed, deployment.request_timeout_s, slot)
        except BaseException as error:
            slot.free()
            if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
                raise _NotReached from error
            if isinstance(error, aiohttp.ClientError):
                raise _Unanswered(type(error).__name__) from error
            raise
        try:
            await (answer.begin() if answer.is_stream else answer.fetch())
        except aiohttp.ClientError as error:  # the client has seen nothing of it
            raise _Unanswered(type(error).__name__) from error
        return answer

    def named(self, answer: Answer, worker: Deployment, path: str, body: bytes, adapter: str | None = None) -> Answer:
        """Return a worker's answer under an id that names what gave it, and kept where its deployment was asked to."""
        if path not in KINDS or answer.status != ANSWERED:
            return answer
        serving = worker.serving_of(adapter)
        answer_id = new_id(self._secret, KINDS[path], serving.reference)
        named = NamedAnswer(answer, answer_id)
        if self._request_log is None or not worker.logs_requests:
            return named
        tell = partial(entry_of, answer_id, serving.endpoint, serving.deployment, serving.model, path, body)
        return self._request_log.watched(named, serving.reference, tell)

    async def look(self, endpoint: str, adapter: str | None = None) -> Current | None:
        """Return what is deployed under an endpoint's name now, or None; for an adapter as `with_adapter` shows it."""
        return None if self._read_current is None else _of((await self._read_current()).get(endpoint), adapter)

    async def look_again(self, endpoint: str, adapter: str | None = None) -> Current | None:
        """Return what is deployed under an endpoint's name in a moment, as `look` does; all that wait look together."""
        if self._read_current is None:
            return None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(self._read_current))
        return _of((await asyncio.shield(self._looking)).get(endpoint), adapter)

    async def _look(self, read: Callable[[], Awaitable[Mapping[str, Current]]]) -> Mapping[str, Current]:
        await asyncio.sleep(LOOK_S)
        return await read()


class _Wait:
    """What a request waits for now, and how long it has stood in queues."""

    def __init__(self) -> None:
        self._for = ""
        self._since_s = 0.0
        self._queued_s = 0.0

    def for_worker(self) -> "_Wait":
        """Return the context in which the request waits for a worker that starts again."""
        self._for = "worker"
        return self

    def in_queue(self) -> "_Wait":
        """Return the context in which the request waits until others are answered."""
        self._for = "queue"
        return self

    def __enter__(self) -> None:
        self._since_s = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queued_s += time.monotonic() - self._since_s if self._for == "queue" else 0.0
        if kind is None:
            self._for = ""

    def timed_out(self, deployment: Deployment, timeout_s: float) -> MafunzoError:
        """Return the error of a request that took longer than `timeout_s`, with what it did in that time."""
        name = f"{deployment.endpoint}/{deployment.name}"
        if self._for == "worker":
            return Unavailable(
                f"The worker of deployment '{name}' ended and didn't come back in {timeout_s:g} s (request_timeout). "
                f"Its log says why: mafunzo endpoint logs {deployment.endpoint}"
            )
        if self._for == "queue":
            return TimedOut(
                f"The request waited {timeout_s:g} s (request_timeout) in the queue of deployment '{name}', and the model "
                "never began to answer it. Try again later, send fewer requests at once, or allow more time: --request-timeout "
                "of `mafunzo deploy`, request_timeout_ms in the SDK."
            )
        queued = f", {self._queued_s:.1f} s of them in the queue" if self._queued_s >= 0.1 else ""
        return TimedOut(
            f"The model didn't finish its answer in {timeout_s:g} s (request_timeout){queued}. Ask for fewer tokens or "
            "a stream, or allow more time: --request-timeout of `mafunzo deploy`, request_timeout_ms in the SDK."
        )


def _of(current: Current | None, adapter: str | None) -> Current | None:
    return None if current is None else (current[0], with_adapter(*current, adapter))


def _worker(deployment: Deployment) -> tuple[str, int, int | None]:
    return deployment.name, deployment.attempt, deployment.port


def _is_waking(deployment: Deployment) -> bool:
    """Return whether a deployment has no worker yet because none was needed."""
    is_idle = deployment.status in (DeploymentStatus.IDLE, DeploymentStatus.DRAINING)
    return is_idle or (deployment.supervision.is_woken and not is_live(deployment))


def _as_down(deployment: Deployment) -> Deployment:
    """Return a deployment as its record will say soon: its worker was seen to be gone before the supervisor saw it."""
    return dataclasses.replace(deployment, status=DeploymentStatus.WAITING, port=None)


def _unreached(deployment: Deployment) -> Unavailable:
    return Unavailable(
        f"The worker of deployment '{deployment.endpoint}/{deployment.name}' can't be reached. Try again later."
    )
