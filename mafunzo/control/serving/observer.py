"""What is seen of workers: their processes and ports, probes of their health, and comparisons with the tuned model.

What is kept in memory only can be found out again: the next server asks `/health` anew, and repeats a comparison.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from mafunzo.control.launcher.local import ExitRecord, LocalLauncher, Running
from mafunzo.control.launcher.steady_clock import steady_s
from mafunzo.control.serving.decide import AdapterWork, Health, Key, Verdict, WorkerState
from mafunzo.control.serving.verification import REQUEST_TIMEOUT_S, refused, verify_folder, why
from mafunzo.control.serving.worker_folder import describe_end, is_final, read_port, worker_folder, worker_token
from mafunzo.control.store.home import Home
from mafunzo.entities.adapter import adapter_model
from mafunzo.entities.endpoint import Deployment
from mafunzo.errors import Conflict, NotFound

TICK_S = 0.3
"""How often workers are looked at."""
PROBE_PERIOD_S = 2.0
PROBE_TIMEOUT_S = 10.0
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@dataclass
class _Watch:
    """What is known of one attempt beside its record and folder."""

    attempt: int
    probe: "Future[Health] | None" = None
    probed_at: float = 0.0
    health: Health = Health.UNKNOWN
    failed_probes: int = 0
    comparison: "Future[Verdict] | None" = None
    adapter_work: AdapterWork | None = None
    adapter_end: "Future[Verdict] | None" = None


class Observer:
    """Looks at the workers of one home."""

    def __init__(
        self,
        launcher: LocalLauncher,
        home: Home,
        clock: Callable[[], float] = steady_s,
        requests: Callable[[Deployment], int] = lambda worker: 0,
    ) -> None:
        """requests: how many a worker has now."""
        self._launcher, self._home, self._clock, self._requests = launcher, home, clock, requests
        self._watches: dict[Key, _Watch] = {}
        self._threads = ThreadPoolExecutor(8, "supervisor")
        self._adapter_threads = ThreadPoolExecutor(
            4, "adapters"
        )  # their proofs, one after another, never hold up probes
        self._secret = home.secret()
        self._http = httpx.Client(timeout=PROBE_TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """End the threads that watch, whatever is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._adapter_threads.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def states(self, deployments: Sequence[Deployment]) -> dict[Key, WorkerState]:
        """Return what is seen of each deployment's worker, and forget all other workers; a deployment has one here."""
        self.watch(deployments)
        return {_key(deployment): self.state(deployment) for deployment in deployments}

    def watch(self, deployments: Sequence[Deployment]) -> None:
        """Watch the worker of each deployment, which has one here, and forget all other workers."""
        self._watches = {_key(deployment): self._watch(deployment) for deployment in deployments}

    def state(self, deployment: Deployment) -> WorkerState:
        """Return what is seen of a worker that is watched."""
        return self._state(deployment, self._watches[_key(deployment)])

    def compare(self, deployment: Deployment, port: int) -> None:
        """Begin to compare a worker with the tuned model."""
        model = worker_folder(self._home, deployment) / "model"
        self._watches[_key(deployment)].comparison = self._threads.submit(
            _compare, model, port, self._headers(deployment)
        )

    def end_comparison(self, deployment: Deployment) -> None:
        """Forget a comparison: a later verification begins with a new one."""
        self._watches[_key(deployment)].comparison = None

    def load_adapter(self, deployment: Deployment, name: str, folder: Path) -> None:
        """Begin to load an adapter into a worker, from `folder`, and to compare it with the tuned model."""
        model = adapter_model(deployment.endpoint, name)
        url, headers = f"http://127.0.0.1:{deployment.port}", self._headers(deployment)
        work = AdapterWork(name, deployment.adapters[name].artifact)
        self._begin_adapter(deployment, work, self._adapter_threads.submit(_load_adapter, url, headers, model, folder))

    def unload_adapter(self, deployment: Deployment, name: str) -> None:
        """Begin to unload an adapter from a worker."""
        model = adapter_model(deployment.endpoint, name)
        url, headers = f"http://127.0.0.1:{deployment.port}", self._headers(deployment)
        work = AdapterWork(name, deployment.adapter_states[name].artifact, is_unloading=True)
        self._begin_adapter(deployment, work, self._adapter_threads.submit(_unload_adapter, url, headers, model))

    def end_adapter(self, deployment: Deployment) -> None:
        """Forget what was done about an adapter: the next one can begin."""
        watch = self._watches[_key(deployment)]
        watch.adapter_work = watch.adapter_end = None

    def _begin_adapter(self, deployment: Deployment, work: AdapterWork, end: "Future[Verdict]") -> None:
        watch = self._watches[_key(deployment)]
        watch.adapter_work, watch.adapter_end = work, end

    def _headers(self, deployment: Deployment) -> dict[str, str]:
        return {"Authorization": f"Bearer {worker_token(self._secret, deployment)}"}

    def _watch(self, deployment: Deployment) -> _Watch:
        watch = self._watches.get(_key(deployment))
        return watch if watch is not None and watch.attempt == deployment.attempt else _Watch(deployment.attempt)

    def _state(self, deployment: Deployment, watch: _Watch) -> WorkerState:
        if deployment.attempt == 0:
            return WorkerState()
        folder = worker_folder(self._home, deployment)
        if not folder.exists():
            return WorkerState(ended="the server ended before the worker had started")
        status = self._launcher.status(folder)
        if not isinstance(status, Running):
            record = status if isinstance(status, ExitRecord) else None
            return WorkerState(ended=describe_end(record, folder), is_final=is_final(record))
        port = read_port(folder)
        if port is not None:
            self._probe(watch, port, self._headers(deployment))
        has_ended = watch.comparison is not None and watch.comparison.done()
        return WorkerState(
            is_running=True,
            port=port,
            health=watch.health,
            failed_probes=watch.failed_probes,
            requests=self._requests(deployment),
            is_verifying=watch.comparison is not None and not has_ended,
            verdict=watch.comparison.result() if watch.comparison is not None and has_ended else None,
            adapter_work=_adapter_work(watch),
        )

    def _probe(self, watch: _Watch, port: int, headers: Mapping[str, str]) -> None:
        """Take in the end of the last probe, and send the next when it is time."""
        if watch.probe is not None and watch.probe.done():
            watch.health = watch.probe.result()
            watch.failed_probes = watch.failed_probes + 1 if watch.health is Health.UNKNOWN else 0
            watch.probe = None
        period_s = PROBE_PERIOD_S if watch.health is Health.READY else TICK_S
        is_due = not 0 <= self._clock() - watch.probed_at < period_s  # also where the clock was put back
        if watch.probe is None and is_due:
            watch.probed_at = self._clock()
            watch.probe = self._threads.submit(self._ask_health, port, headers)

    def _ask_health(self, port: int, headers: Mapping[str, str]) -> Health:
        try:
            answer = self._http.get(f"http://127.0.0.1:{port}/health", headers=headers)
        except httpx.TransportError:
            return Health.UNKNOWN
        return {200: Health.READY, 503: Health.LOADING}.get(answer.status_code, Health.UNKNOWN)


def _compare(model: Path, port: int, headers: Mapping[str, str]) -> Verdict:
    """Run in a thread: seconds on a small model, minutes on a large one."""
    return verify_folder(model, f"http://127.0.0.1:{port}", headers)


def _adapter_work(watch: _Watch) -> AdapterWork | None:
    work, end = watch.adapter_work, watch.adapter_end
    return replace(work, verdict=end.result()) if work is not None and end is not None and end.done() else work


def _load_adapter(url: str, headers: Mapping[str, str], model: str, folder: Path) -> Verdict:
    """Load an adapter into a worker and compare it with the tuned model; one that differs is unloaded again. In a thread."""
    with httpx.Client(timeout=REQUEST_TIMEOUT_S, trust_env=False, headers=headers) as http:
        try:
            verdict = _loaded(http, url, headers, model, folder)
            if verdict.faults:
                http.post(f"{url}{UNLOAD}", json={"lora_name": model})
        except httpx.TransportError as error:
            return Verdict(broke=f"{type(error).__name__}: {error}")
        except (OSError, ValueError, LookupError, TypeError) as error:  # a damaged file is this adapter's fault alone
            verdict = refused(f"adapter: the proof broke: {type(error).__name__}: {error}")
    return verdict


def _loaded(http: httpx.Client, url: str, headers: Mapping[str, str], model: str, folder: Path) -> Verdict:
    body = {"lora_name": model, "lora_path": str(folder)}
    answer = http.post(f"{url}{LOAD}", json=body)
    if answer.status_code == Conflict.status:  # what a server before this one loaded, and didn't write down
        http.post(f"{url}{UNLOAD}", json={"lora_name": model})
        answer = http.post(f"{url}{LOAD}", json=body)
    if answer.is_error:
        return refused(f"adapter: the worker can't load it: {why(answer)}")
    return verify_folder(folder, url, headers, model)


def _unload_adapter(url: str, headers: Mapping[str, str], model: str) -> Verdict:
    try:
        answer = httpx.post(
            f"{url}{UNLOAD}", json={"lora_name": model}, headers=headers, timeout=PROBE_TIMEOUT_S, trust_env=False
        )
    except httpx.TransportError as error:
        return Verdict(broke=f"{type(error).__name__}: {error}")
    is_gone = answer.is_success or answer.status_code == NotFound.status
    return Verdict() if is_gone else Verdict(broke=f"the worker answers {answer.status_code}: {why(answer)}")


def _key(deployment: Deployment) -> Key:
    return (deployment.endpoint, deployment.worker)
