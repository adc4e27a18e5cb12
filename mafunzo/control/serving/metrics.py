"""Prometheus metrics of the requests that the router forwards."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mafunzo.entities.endpoint import Deployment

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


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

    def end(self, deployment: Deployment, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        names = (deployment.endpoint, deployment.name)
        self._in_flight.labels(*names).dec()
        self._requests.labels(*names, str(status)).inc()
        self._seconds.labels(*names).observe(seconds)

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
