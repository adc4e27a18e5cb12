"""Jobs: submitting a request to the queue, and the verbs on jobs then."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mafunzo.control.store.codec import decode
from mafunzo.control.workspace.job_handle import JobHandle, find_step, job_view
from mafunzo.control.workspace.retention import free, models_made_by, named_artifacts
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.versions import Positioned
from mafunzo.entities.asset import Asset
from mafunzo.entities.job import Job, JobStatus, Step
from mafunzo.entities.job_request import JobChange, JobRequest, changed
from mafunzo.entities.scan import Scan
from mafunzo.errors import Conflict, Faults, NotFound

if TYPE_CHECKING:  # planning loads much, and most commands look at jobs only
    from mafunzo.control.workspace.submission import Promised, Submission
    from mafunzo.entities.estimate import Estimate, Scoreboard

logger = logging.getLogger(__name__)

Steps = list[Step]  # the class below has a verb called list
Queue = list[Job]


class Jobs:
    """The verbs on jobs."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def list(
        self, statuses: tuple[JobStatus, ...] | None = None, limit: int | None = None, before: str | None = None
    ) -> list[Job]:
        """Return the jobs, newest first: all, or `limit` of those that are older than the job called `before`.

        Raises `NotFound` where there is no such job.
        """
        return self._services.records.jobs.list(statuses, limit, before)

    def scan(self, scan: Scan, is_archived: bool | None = None) -> Positioned[Job]:
        """Yield the jobs with their positions in the list, read as they are needed.

        is_archived: only those that are hidden from lists, or that aren't; None for both.
        """
        return self._services.records.jobs.scan(scan, is_archived)

    def queue(self) -> Queue:
        """Return the jobs that haven't ended, in the order in which the scheduler takes them."""
        return self._services.records.jobs.queue()

    def steps_of(self, names: Iterable[str]) -> Mapping[str, Steps]:
        """Return the steps of some jobs in the order planned, by job; none of one that isn't there."""
        return self._services.records.steps.of_each(names)

    def running_steps(self) -> Steps:
        """Return the steps that run, of all jobs."""
        return self._services.records.steps.running()

    def get(self, name: str) -> JobHandle:
        """Return a job by name; raises `NotFound`."""
        self._services.records.jobs.get(name)
        return JobHandle(self._services, name)

    def find_step(self, name: str) -> Step | None:
        """Return the step that is called `<job>.<step>`, or None."""
        return find_step(self._services, name)

    def find(self, name: str) -> tuple[JobHandle, Step | None]:
        """Return the job that is called so, or the one whose step is called `<job>.<step>`, and that; raises `NotFound`."""
        step = self.find_step(name)
        return self.get(step.job if step else name), step

    def has(self, name: str) -> bool:
        """Return whether a job has that name."""
        try:
            self._services.records.jobs.get(name)
        except NotFound:
            return False
        return True

    def change(self, name: str, change: JobChange) -> Job:
        """Change what a job is called, its description and tags, or hide it from lists; return it. Raises `NotFound`."""
        job = changed(self._services.records.jobs.get(name), change)
        self._services.records.jobs.update(job)
        return job

    def create(self, request: JobRequest, earlier: JobRequest | None = None) -> JobHandle:
        """Put a job into the queue; all its faults are raised at once, before anything is stored.

        Idempotent: of a job of that name that exists, what is said of it is changed, since a client that heard no answer asks
        again. Raises `Conflict` where it has other settings. earlier: the request that it came from, where the job itself
        doesn't know that any more.
        """
        if not self.has(request.name):
            return self._enqueue(self._submission(request))
        settings = self._services.records.jobs.get(request.name).settings
        known = earlier if settings is None else decode(JobRequest, settings)
        if known is None or known.settings != request.settings:
            raise Conflict(
                f"Job {request.name} exists already, with other settings. Only its description, tags, properties and display "
                "name can be changed: submit the job under another name."
            )
        self.change(request.name, request.change)
        return self.get(request.name)

    def require_good(self, request: JobRequest, promised: Promised | None = None) -> None:
        """Raise all faults of a job, of which what is promised isn't stored yet. Nothing is stored or started."""
        self._submission(request, promised=promised)

    def finetune(
        self,
        *,
        model: str | Path | Asset | None = None,
        train: str | Path | None = None,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        **parameters: Any,
    ) -> JobHandle:
        """Plan a fine-tuning pipeline and put it into the queue. See `Workspace.finetune`."""
        return self._enqueue(self._finetuning(model, (train, validation, test), parameters))

    def plan_finetune(
        self,
        *,
        model: str | Path | Asset | None = None,
        train: str | Path | None = None,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        **parameters: Any,
    ) -> tuple[Job, Steps]:
        """Return the job and its steps, and store nothing; all faults of the request are raised at once."""
        return self._finetuning(model, (train, validation, test), parameters).planned()

    def unfetched_model(self, steps: Steps) -> str:
        """Return the model that the import step among planned ones would have to fetch; an empty text where it needn't."""
        from mafunzo.control.workspace.model_source import IMPORT_STEP, ModelSources

        importing = [step.spec for step in steps if step.spec.component.partition(":")[0] == IMPORT_STEP]
        return next(filter(None, map(ModelSources(self._services).unfetched, importing)), "")

    def _finetuning(
        self,
        model: str | Path | Asset | None,
        files: tuple[str | Path | None, str | Path | None, str | Path | None],
        parameters: Mapping[str, Any],
    ) -> Submission:
        from mafunzo.control.workspace.arguments import finetuning

        faults = Faults()
        request = finetuning(model, _by_input(*files), parameters, faults)
        return self._submission(request, faults)

    def estimate(
        self,
        *,
        model: str | Path | Asset | None = None,
        train: str | Path | None = None,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        **parameters: Any,
    ) -> JobHandle:
        """Put a job into the queue that estimates a fine-tuning with the same arguments. See `Workspace.estimate`."""
        from mafunzo.control.workspace.arguments import estimating

        faults = Faults()
        request = estimating(model, _by_input(train, validation, test), parameters, faults)
        return self._enqueue(self._submission(request, faults))

    def read_estimate(self, name: str) -> Estimate:
        """Return what the job called `name` has estimated, with the price of an hour as it is now.

        Raises `NotFound` where it has no estimate, or that was pruned.
        """
        from mafunzo.control.workspace.estimate import read_estimate

        return read_estimate(self._services, self.get(name))

    def scoreboard(self) -> Scoreboard:
        """Return how far estimates were from what past runs took: median and 90th percentile of time and memory."""
        from mafunzo.control.workspace.estimate import scoreboard

        return scoreboard(self._services)

    def compare(self, *, model: str, data: str | Path, against: str | None = None, **parameters: Any) -> JobHandle:
        """Evaluate two models on the same rows. Without `against`, the base that `model` was tuned from."""
        from mafunzo.control.workspace.arguments import comparison

        faults = Faults()
        request = comparison(self._services, model, data, against, parameters, faults)
        return self._enqueue(self._submission(request, faults))

    def score(
        self, *, model: str | Path | Asset | None = None, data: str | Path | None = None, **parameters: Any
    ) -> JobHandle:
        """Put a job into the queue that answers a file of rows with a model. See `Workspace.batch_score`."""
        from mafunzo.control.workspace.arguments import scoring

        faults = Faults()
        request = scoring(model, data, parameters, faults)
        return self._enqueue(self._submission(request, faults))

    def write_predictions(self, name: str, to: str | Path) -> Mapping[str, Any]:
        """Write the predictions of the scoring job called `name` into the file `to`; return what became of the rows.

        Raises `NotFound` for a job without, and `JobFailed` where it has none yet.
        """
        from mafunzo.control.workspace.predictions import write_predictions

        return write_predictions(self._services, self.get(name), Path(to).expanduser())

    def import_model(self, reference: str) -> JobHandle:
        """Fetch and convert a model; the job's output `model` is a plain Hugging Face folder."""
        from mafunzo.control.workspace.arguments import importing

        return self._enqueue(self._submission(importing(self._services, reference)))

    def preview(self, model: str | Path, data: str | Path, **parameters: Any) -> JobHandle:
        """Render rows of `data` with the model's chat template and the loss mask."""
        from mafunzo.control.workspace.arguments import previewing

        return self._enqueue(self._submission(previewing(self._services, model, data, parameters)))

    def resume(self, name: str, **changes: Any) -> tuple[JobHandle, dict[str, int]]:
        """Put a new job into the queue that goes on with an ended one, its steps that were done from the cache, and the trials
        of its sweeps that have ended as they are.

        changes: parameters of training that become others, such as num_train_epochs, max_steps or learning_rate; with these a
        job that has completed is gone on with too.
        Returns it with the step of the newest checkpoint that each of the job's steps goes on from. Raises `Conflict` for a
        job that hasn't ended, or has completed, and `InvalidParameter` for what can't be changed.
        """
        from mafunzo.control.workspace.resumption import resumed, take_over_checkpoints, take_over_trials

        resumed(self._services, name, changes)  # what is wrong is told before a server starts
        self._services.up()
        with self._services.artifacts.held():  # nothing is pruned before a row names it
            job, steps = resumed(self._services, name, changes)
            take_over_trials(self._services, name, steps)
            newest = take_over_checkpoints(self._services, name, job, bool(changes))
            self._services.records.jobs.add(job, steps)
        return JobHandle(self._services, job.name), newest

    def delete(self, name: str, is_forced: bool = False) -> int:
        """Delete a job that has ended, its logs, and the bytes that nothing else holds; return how many bytes were freed.

        Raises `Conflict` while it is queued or runs, and, unless forced, where a registered model's lineage leads to it.
        """
        services = self._services
        job, steps = services.records.jobs.get(name), services.records.steps.of(name)
        models = [str(asset.key) for asset in models_made_by(services, name)]
        if models and not is_forced:
            raise Conflict(
                f"The lineage of {', '.join(models)} leads to job {name}. Delete that first, or pass --force."
            )
        services.records.jobs.delete(name)
        shutil.rmtree(services.home.jobs / name, ignore_errors=True)
        view_artifacts = services.blobs.withdraw_views(job_view(name))
        artifacts = named_artifacts(job).union(view_artifacts, *map(named_artifacts, steps))
        return free(services, artifacts, job.ended_at)

    def _submission(
        self, request: JobRequest, faults: Faults | None = None, promised: Promised | None = None
    ) -> Submission:
        from mafunzo.control.workspace.submission import NOTHING, submission

        return submission(self._services, request, promised or NOTHING, faults)

    def _enqueue(self, good: Submission) -> JobHandle:
        """Start the server first: where it can't start, nothing is left in the queue."""
        from mafunzo.control.workspace.estimate import with_estimate

        self._services.up()
        with self._services.artifacts.held():  # nothing is pruned before a row names it
            job, steps = good.stored()
            self._require_stored(steps)
            job = with_estimate(self._services, job, steps)
            self._services.records.jobs.add(job, steps)
        return JobHandle(self._services, job.name)

    def _require_stored(self, steps: Steps) -> None:
        """Raise `Conflict` for inputs that were pruned since they were looked up."""
        exists = self._services.artifacts.exists
        gone = [
            f"step '{step.name}' reads {item}" for step in steps for item in step.spec.artifacts if not exists(item)
        ]
        if gone:
            raise Conflict("What the job reads was pruned just now. Submit it again with its files.", gone)


def _by_input(
    train: str | Path | None, validation: str | Path | None, test: str | Path | None
) -> dict[str, str | Path | None]:
    """Return files of rows by the inputs that they are of."""
    return {"train_file_path": train, "validation_file_path": validation, "test_file_path": test}
