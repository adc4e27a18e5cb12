"""The webhook: tells an address of the operator's that a job has ended, with its verdict and numbers, as JSON.

It has a loop of its own, so that a receiver that is slow or down holds up nothing. A notice (`store/outbox.py`) is tried until
the receiver answers 2xx, each time after a longer pause, and given up after `GIVE_UP_S`. That it couldn't be delivered stands
in the server's log and in the job's properties. A crash after the answer may repeat a notice: its `id` is the same then.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from mafunzo.control.store.outbox import Notice, Outbox
from mafunzo.control.store.web_file import AddressRefused, checked_address
from mafunzo.control.workspace.services import Services
from mafunzo.entities.backoff import delay_s
from mafunzo.entities.job import WEBHOOK, Job, Step
from mafunzo.entities.parameters.parameter import EVALUATE
from mafunzo.errors import InvalidParameter, MafunzoError, NotFound

logger = logging.getLogger(__name__)

VARIABLE = "MAFUNZO_JOB_WEBHOOK"
POLL_S = 1.0
TIMEOUT_S = 10.0
GIVE_UP_S = 3 * 24 * 3600.0
"""After how long a notice that can't be delivered is given up."""
EVALUATION, METRICS = "evaluation_result", "metrics.json"


def require_webhook(url: str) -> None:
    """Raise `InvalidParameter` for what can't be an address; whether it may be asked is checked at each delivery."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidParameter(f"{VARIABLE} is '{url}', expected an address like https://example.org/hook.")


class Webhook:
    """Delivers the notices of one home. links: what a reader may open, for a job's name."""

    def __init__(
        self,
        services: Services,
        url: str,
        links: Callable[[str], Mapping[str, str]] = lambda job: {},
        clock: Callable[[], float] = time.time,
    ) -> None:
        require_webhook(url)
        self._services, self._url, self._links, self._clock = services, url, links, clock
        self._outbox = Outbox(services.home)

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set."""
        while not stop.wait(POLL_S):
            self.tick(stop)

    def tick(self, stop: threading.Event | None = None) -> None:
        """Try each notice that is due once."""
        for notice in list(self._outbox.notices()):
            if stop is not None and stop.is_set():
                return
            if notice.next_at <= self._clock():
                self._try(notice)

    def _try(self, notice: Notice) -> None:
        try:
            job = self._services.records.jobs.get(notice.job)
        except NotFound:  # it was deleted
            self._outbox.remove(notice.job)
            return
        if not job.status.is_terminal:
            return
        fault = self._send(job)
        if not fault:
            self._outbox.remove(job.name)
            self._note(job, "")
            logger.info("Told %s of the end of job %s", _shown(self._url), job.name)
            return
        has_given_up = job.ended_at is not None and self._clock() - job.ended_at.timestamp() > GIVE_UP_S
        attempts = notice.attempts + 1
        what = f"{_shown(self._url)} couldn't be told of the end of job {job.name}: {fault}"
        if has_given_up:
            self._outbox.remove(job.name)
        else:
            self._outbox.put(Notice(job.name, attempts, self._clock() + delay_s(attempts)))
        if has_given_up or attempts == 1:
            logger.warning("%s; it is %s", what, "given up" if has_given_up else "tried again")
            self._note(job, f"{what}; it {'was given up' if has_given_up else 'is tried again'}.")

    def _note(self, job: Job, text: str) -> None:
        """Keep with the job that it couldn't be told; an empty text ends that."""
        if job.properties.get(WEBHOOK, "") == text:
            return
        now = self._services.records.jobs.get(job.name)
        properties = {name: value for name, value in now.properties.items() if name != WEBHOOK}
        self._services.records.jobs.update(replace(now, properties=properties | ({WEBHOOK: text} if text else {})))

    def _send(self, job: Job) -> str:
        """Send the notice of a job, and return why that failed; empty where the receiver took it."""
        import httpx

        target = httpx.URL(self._url)
        headers = {"Host": target.netloc.decode("ascii"), "Content-Type": "application/json"}
        try:
            address = checked_address(target, self._services.input_hosts)
            pinned = target.copy_with(host=address) if address else target
            body = json.dumps(self._body(job))
            with httpx.Client(timeout=TIMEOUT_S) as client:
                answer = client.post(pinned, content=body, headers=headers, extensions={"sni_hostname": target.host})
        except AddressRefused as error:
            return str(error) if error.is_missing else f"{error}. List the host in MAFUNZO_INPUT_HOSTS to allow it"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return str(error) or type(error).__name__
        return "" if answer.is_success else f"it answers with {answer.status_code} {answer.reason_phrase}"

    def _body(self, job: Job) -> dict[str, Any]:
        report = self._report(job)
        metrics = {name: value for name, value in report.items() if isinstance(value, int | float)}
        return {
            "id": f"{job.name}/{_time(job.ended_at)}",
            "event": "job_ended",
            "job": job.name,
            "display_name": job.display_name,
            "experiment": job.experiment,
            "status": str(job.status),
            "outcome": _outcome(report),
            "verdict": report.get("verdict"),
            "metrics": metrics,
            "error": (job.error or {}).get("message"),
            "created_at": _time(job.created_at),
            "started_at": _time(job.started_at),
            "ended_at": _time(job.ended_at),
            "links": dict(self._links(job.name)),
        }

    def _report(self, job: Job) -> dict[str, Any]:
        """Return what the job's evaluation says; empty where there was none, or its files are gone."""
        steps = self._services.records.steps.of(job.name)
        stored = next((step.outputs[EVALUATION] for step in steps if _is_evaluation(step)), None)
        if stored is None:
            return {}
        try:
            report = json.loads(self._services.artifacts.open_file(stored, METRICS).read_text(encoding="utf-8"))
        except (MafunzoError, OSError, ValueError) as error:
            logger.warning("The evaluation of job %s can't be read: %s", job.name, error)
            return {}
        return report if isinstance(report, dict) else {}


def _is_evaluation(step: Step) -> bool:
    return step.spec.component.partition(":")[0] == EVALUATE and step.status.is_done and EVALUATION in step.outputs


def _outcome(report: Mapping[str, Any]) -> str | None:
    """Return better, worse, equal or unknown, by the comparison that decides: of the loss, else the first; None without one."""
    comparisons = report.get("comparisons") or {}
    decisive = comparisons.get("loss") or next(iter(comparisons.values()), None)
    if decisive is None:
        return None
    if str(report.get("verdict", "")).startswith("No verdict"):
        return "unknown"
    is_better = decisive.get("is_better")
    return "equal" if is_better is None else "better" if is_better else "worse"


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _shown(url: str) -> str:
    """Return an address without what may be secret in it: user, path and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
