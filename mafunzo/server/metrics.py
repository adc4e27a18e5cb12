"""What operators scrape: requests by endpoint, and what the loops have to do."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mafunzo.entities.job import JobStatus
from mafunzo.store.records import Records

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self, records: Records) -> None:
        self.registry = CollectorRegistry()
        names = ("endpoint", "deployment")
        self.requests = Counter(
            "mafunzo_requests", "Requests that a worker was asked for", (*names, "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "mafunzo_request_seconds", "Until the last byte", names, buckets=SECONDS, registry=self.registry
        )
        self.in_flight = Gauge(
            "mafunzo_requests_in_flight", "Requests being answered now", names, registry=self.registry
        )
        self.registry.register(_Books(records))

    def finished(self, endpoint: str, deployment: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self.requests.labels(endpoint, deployment, str(status)).inc()
        self.seconds.labels(endpoint, deployment).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)


class _Books(Collector):
    """Read from the store at each scrape."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def collect(self) -> Iterable[Metric]:
        deployments = GaugeMetricFamily("mafunzo_deployments", "Deployments by status", labels=["status"])
        for status, count in Tally(str(d.status) for d in self._records.deployments.list()).items():
            deployments.add_metric([status], count)
        jobs = GaugeMetricFamily("mafunzo_jobs", "Jobs that haven't ended, by status", labels=["status"])
        unfinished = self._records.jobs.list((JobStatus.QUEUED, JobStatus.RUNNING))
        for status, count in Tally(str(job.status) for job in unfinished).items():
            jobs.add_metric([status], count)
        return [deployments, jobs]
