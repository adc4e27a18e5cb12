"""MLflow's tracking store, twice: for the view, and for users, who may not change what a job has recorded.

Both use one database. Users' own runs are stored nowhere else: it is data, and is backed up.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Protocol

from mlflow.entities import Experiment, LifecycleStage, Metric, Param, Run, RunStatus, RunTag, SourceType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.tracking.dbmodels.models import SqlParam, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from mafunzo.entrypoints.mlflow.operation import is_plain

KEY_TAG = "mafunzo.key"
"""On every run that shows a job or a step: `job`, or `job/step/attempt`."""
JOBS_TAG = "mafunzo.jobs"
"""On every experiment that has such a run."""
OWN_LOCATION = "mlflow-artifacts:"
OWN_TAGS = ("mafunzo.", "mlflow.parentRunId", "mlflow.user")


class RunStore(SqlAlchemyStore):  # type: ignore[misc]
    """The store as the view writes to it."""

    def add_run(
        self,
        run_id: str,
        experiment: Experiment,
        start_ms: int | None,
        title: str,
        tags: Sequence[RunTag],
        params: Sequence[Param] = (),
    ) -> None:
        """Add a run with an id chosen by the caller; `create_run` makes a random one."""
        with self.ManagedSessionMaker(read_only=False) as session:
            run = SqlRun(
                name=title,
                artifact_uri=f"{experiment.artifact_location}/{run_id}/{self.ARTIFACTS_FOLDER_NAME}",
                run_uuid=run_id,
                experiment_id=experiment.experiment_id,
                source_type=SourceType.to_string(SourceType.UNKNOWN),
                source_name="",
                source_version="",
                entry_point_name="",
                user_id="",
                status=RunStatus.to_string(RunStatus.RUNNING),
                start_time=start_ms,
                lifecycle_stage=LifecycleStage.ACTIVE,
            )
            run.tags = [SqlTag(key=tag.key, value=tag.value) for tag in [*tags, RunTag("mlflow.runName", title)]]
            run.params = [SqlParam(key=param.key, value=param.value) for param in params]
            session.add(run)

    def tags(self, key: str) -> list[tuple[str, str]]:
        """Return the value and the run of every tag with a key; nothing else of the runs is read."""
        with self.ManagedSessionMaker(read_only=True) as session:
            return [
                (row.value, row.run_uuid) for row in session.query(SqlTag.value, SqlTag.run_uuid).filter_by(key=key)
            ]

    def forget_run(self, run_id: str, artifacts: Path) -> None:
        """Delete a run and its artifacts for good, as `mlflow gc` does with deleted runs."""
        experiment = self.get_run(run_id).info.experiment_id
        self._hard_delete_run(run_id)
        shutil.rmtree(artifacts / experiment / run_id, ignore_errors=True)


class OpenRuns(Protocol):
    """The runs of users' own steps that are running, into which these log."""

    def is_open(self, run_id: str) -> bool:
        """Return whether the run is a running step's own."""

    def tick(self) -> int:
        """Ingest jobs now."""

    def keep(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Append logged metrics to the step's `metrics.jsonl`."""


def _if_open(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def change(self: "UserStore", run_id: str, *values: Any, **more: Any) -> Any:
        self.require_open(run_id)
        return method(self, run_id, *values, **more)

    return change


def _if_without_jobs(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def change(self: "UserStore", experiment_id: str, *values: Any) -> Any:
        if JOBS_TAG in self.get_experiment(experiment_id).tags:
            raise MlflowException(
                f"Experiment {experiment_id} has runs that show jobs of Mafunzo: it can be neither deleted nor renamed.",
                PERMISSION_DENIED,
            )
        return method(self, experiment_id, *values)

    return change


class UserStore(SqlAlchemyStore):  # type: ignore[misc]
    """The store as users write to it: a run that shows a job takes tags and notes only.

    The one exception is the run of a user's own step while it runs, which takes all that the step logs.
    """

    def __init__(self, uri: str, artifact_root: str, runs: OpenRuns) -> None:
        super().__init__(uri, artifact_root)
        self._open_runs = runs

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        location = artifact_location or ""
        if location and not (
            location.startswith(OWN_LOCATION) and is_plain(location.removeprefix(OWN_LOCATION).strip("/"))
        ):
            raise MlflowException(
                f"artifact_location is '{location}', expected none, or a path like {OWN_LOCATION}/NAME: the files of runs are "
                "kept in the home, and the server reads and writes no others.",
                INVALID_PARAMETER_VALUE,
            )
        return str(super().create_experiment(name, artifact_location, tags))

    def get_run(self, run_id: str) -> Run:
        try:
            return super().get_run(run_id)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            self._open_runs.tick()  # perhaps it belongs to a step that has just started
            return super().get_run(run_id)

    def log_metric(self, run_id: str, metric: Metric) -> None:
        self.require_open(run_id)
        super().log_metric(run_id, metric)
        self._open_runs.keep(run_id, [metric])

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
    ) -> None:
        if metrics or params:
            self.require_open(run_id)
        self._require_not_ours(run_id, [tag.key for tag in tags])
        super().log_batch(run_id, metrics, params, tags)
        self._open_runs.keep(run_id, metrics)

    def set_tag(self, run_id: str, tag: RunTag) -> None:
        self._require_not_ours(run_id, [tag.key])
        super().set_tag(run_id, tag)

    def delete_tag(self, run_id: str, key: str) -> None:
        self._require_not_ours(run_id, [key])
        super().delete_tag(run_id, key)

    update_run_info = _if_open(SqlAlchemyStore.update_run_info)
    log_param = _if_open(SqlAlchemyStore.log_param)
    log_inputs = _if_open(SqlAlchemyStore.log_inputs)
    log_outputs = _if_open(SqlAlchemyStore.log_outputs)
    record_logged_model = _if_open(SqlAlchemyStore.record_logged_model)
    delete_experiment = _if_without_jobs(SqlAlchemyStore.delete_experiment)
    rename_experiment = _if_without_jobs(SqlAlchemyStore.rename_experiment)

    def delete_run(self, run_id: str) -> None:
        if self._shows_a_job(run_id):
            raise _refusal(run_id, "it can't be deleted")
        super().delete_run(run_id)

    def require_open(self, run_id: str) -> None:
        """Raise `MlflowException` for a run that shows a job, unless it is a user's step that runs."""
        if self._shows_a_job(run_id) and not self._open_runs.is_open(run_id):
            raise _refusal(run_id, "it takes tags and notes only")

    def _shows_a_job(self, run_id: str) -> bool:
        return KEY_TAG in self.get_run(run_id).data.tags

    def _require_not_ours(self, run_id: str, keys: Sequence[str]) -> None:
        ours = [key for key in keys if key.startswith(OWN_TAGS)]
        if ours and self._shows_a_job(run_id):
            raise _refusal(run_id, f"its tag {ours[0]} is Mafunzo's own")


def _refusal(run_id: str, reason: str) -> MlflowException:
    return MlflowException(f"Run {run_id} shows a job of Mafunzo: {reason}.", PERMISSION_DENIED)
