"""Prometheus metrics of serving, by endpoint and deployment: what the router sees of requests, and what workers count.

Only a worker knows when a token came, how many there were, and what its prefix cache saved. So its own metrics are read at each
scrape and passed on with the deployment's labels and the worker's name; they begin at zero when it starts again, as Prometheus
expects of counters.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mafunzo.control.serving.traffic import live_workers
from mafunzo.control.serving.worker_folder import worker_token
from mafunzo.entities.endpoint import Deployment

logger = logging.getLogger(__name__)

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
WORKERS = (
    "mafunzo_prompt_tokens",
    "mafunzo_cached_prompt_tokens",
    "mafunzo_generated_tokens",
    "mafunzo_time_to_first_token_seconds",
    "mafunzo_sequences_running",
    "mafunzo_sequences_waiting",
)
"""What is passed on of a worker's metrics. Its requests are counted by the router already."""
LABELS = ("endpoint", "deployment", "worker")
READ_TIMEOUT_S = 2.0
"""A scrape doesn't wait longer for a worker, which then counts as not up."""
READS_AT_ONCE = 16


class RequestMetrics:
    """Requests by endpoint and deployment, whichever dialect they came in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        names = ("endpoint", "deployment")
        self._requests = Counter(
            "mafunzo_requests", "Requests that a worker was asked for", (*names, "status"), registry=registry
        )
        self._seconds = Histogram(
            "mafunzo_request_seconds", "Until the last byte", names, buckets=SECONDS, registry=registry
        )
        self._adapter_requests = Counter(
            "mafunzo_adapter_requests",
            "Requests for an adapter, which are among mafunzo_requests too",
            (*names, "adapter", "status"),
            registry=registry,
        )
        self._in_flight = Gauge("mafunzo_requests_in_flight", "Requests being answered now", names, registry=registry)
        self._unanswered = Counter(
            "mafunzo_requests_unanswered",
            "Requests that a worker took and left unanswered; each is sent once more",
            names,
            registry=registry,
        )
        self._waiting = Gauge(
            "mafunzo_requests_waiting", "Requests in the queue, before a worker has them", names, registry=registry
        )

    def begin(self, deployment: Deployment) -> None:
        """Count a request as being answered; `end` must follow."""
        self._in_flight.labels(deployment.endpoint, deployment.name).inc()

    def end(self, deployment: Deployment, status: int, seconds: float, adapter: str | None = None) -> None:
        """Count a request that has ended; adapter: which one it was for."""
        names = (deployment.endpoint, deployment.name)
        self._in_flight.labels(*names).dec()
        self._requests.labels(*names, str(status)).inc()
        self._seconds.labels(*names).observe(seconds)
        if adapter is not None:
            self._adapter_requests.labels(*names, adapter, str(status)).inc()

    def move(self, before: Deployment, after: Deployment) -> None:
        """Count a request that is being answered as another deployment's."""
        self._in_flight.labels(before.endpoint, before.name).dec()
        self._in_flight.labels(after.endpoint, after.name).inc()

    def leave_unanswered(self, deployment: Deployment) -> None:
        """Count a request that a worker left unanswered."""
        self._unanswered.labels(deployment.endpoint, deployment.name).inc()

    def wait(self, deployment: Deployment, change: int) -> None:
        """Count `change` more requests as waiting in a deployment's queue."""
        self._waiting.labels(deployment.endpoint, deployment.name).inc(change)


class WorkerMetrics(Collector):
    """The metrics of all live workers, read at each scrape. `mafunzo_worker_up` says of which they were read.

    deployments: all that there are now. secret: of the home, by which its workers' tokens are known.
    """

    def __init__(self, deployments: Callable[[], Iterable[Deployment]], secret: bytes) -> None:
        self._deployments, self._secret = deployments, secret
        self._http = httpx.Client(timeout=READ_TIMEOUT_S, trust_env=False)

    def collect(self) -> Iterable[Metric]:
        """Return the workers' metrics, each family once, with a sample for each worker."""
        workers = live_workers([worker for deployment in self._deployments() for worker in deployment.workers])
        up = GaugeMetricFamily("mafunzo_worker_up", "Whether a worker told its metrics", labels=LABELS)
        families: dict[str, Metric] = {}
        for worker, metrics in zip(workers, self._read_all(workers), strict=True):
            up.add_metric(_labels(worker), float(metrics is not None))
            _add(families, worker, metrics or ())
        return [up, *families.values()] if workers else []

    def _read_all(self, workers: Sequence[Deployment]) -> list[list[Metric] | None]:
        if not workers:
            return []
        with ThreadPoolExecutor(min(READS_AT_ONCE, len(workers)), "metrics") as threads:
            return list(threads.map(self._read, workers))

    def _read(self, worker: Deployment) -> list[Metric] | None:
        """Return a worker's metrics, or None where it doesn't tell them in Prometheus' text format."""
        headers = {"authorization": f"Bearer {worker_token(self._secret, worker)}"}
        try:
            answer = self._http.get(f"http://127.0.0.1:{worker.port}/metrics", headers=headers)
            answer.raise_for_status()
            return list(text_string_to_metric_families(answer.text))
        except (httpx.HTTPError, ValueError) as error:
            logger.info("No metrics of %s/%s: %s", worker.endpoint, worker.worker, error)
            return None


def _labels(worker: Deployment) -> tuple[str, str, str]:
    return worker.endpoint, worker.name, worker.worker


def _add(families: dict[str, Metric], worker: Deployment, metrics: Iterable[Metric]) -> None:
    """Add a worker's samples to the families of all workers, under its labels."""
    labels = dict(zip(LABELS, _labels(worker), strict=True))
    for family in metrics:
        if family.name not in WORKERS:
            continue
        target = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            target.add_sample(sample.name, {**sample.labels, **labels}, sample.value)
