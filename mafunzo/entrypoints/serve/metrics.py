"""What operators scrape of the store: what the loops have to do. The router counts the requests."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mafunzo.control.workspace import Workspace
from mafunzo.entities.job import JobStatus


class Books(Collector):
    """Jobs and deployments by status, read from the store at each scrape."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def collect(self) -> Iterable[Metric]:
        deployments = GaugeMetricFamily("mafunzo_deployments", "Deployments by status", labels=["status"])
        for status, count in Tally(str(d.status) for d in self._workspace.deployments.list()).items():
            deployments.add_metric([status], count)
        jobs = GaugeMetricFamily("mafunzo_jobs", "Jobs that haven't ended, by status", labels=["status"])
        unfinished = self._workspace.jobs.list((JobStatus.QUEUED, JobStatus.RUNNING))
        for status, count in Tally(str(job.status) for job in unfinished).items():
            jobs.add_metric([status], count)
        return [deployments, jobs]
