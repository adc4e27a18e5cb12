"""A home folder and all the verbs on it."""

from __future__ import annotations

import copy
import getpass
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mafunzo import settings
from mafunzo.control.launcher.server_process import server_argv, start_in_background
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.blob import Blobs
from mafunzo.control.store.home import Home
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.control.workspace.services import Services
from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entities.pruning import PruneKind, prune_request
from mafunzo.entities.scale import ONE_INSTANCE, Scale
from mafunzo.entities.server_address import LOOPBACK, ServerAddress
from mafunzo.errors import Conflict, InvalidParameter

if TYPE_CHECKING:
    from mafunzo.control.workspace.adapters import Adapters
    from mafunzo.control.workspace.batch_endpoints import BatchEndpoints
    from mafunzo.control.workspace.components import Codes, Components
    from mafunzo.control.workspace.computes import Computes
    from mafunzo.control.workspace.datasets import DataSets
    from mafunzo.control.workspace.deployments import Deployments
    from mafunzo.control.workspace.endpoints import EndpointHandle, Endpoints
    from mafunzo.control.workspace.environments import Environments
    from mafunzo.control.workspace.job_handle import JobHandle
    from mafunzo.control.workspace.jobs import Jobs
    from mafunzo.control.workspace.lineage import Lineage
    from mafunzo.control.workspace.models import Models
    from mafunzo.control.workspace.pruning import PruneReport
    from mafunzo.control.workspace.registered_models import RegisteredModels
    from mafunzo.control.workspace.responses import Responses
    from mafunzo.control.workspace.shutdown import DownReport
    from mafunzo.control.workspace.status import HomeStatus
    from mafunzo.control.workspace.users import Users
    from mafunzo.control.workspace.versions import Versions
    from mafunzo.entities.estimate import Estimate


class Workspace:
    """The verbs over one home folder. Verbs that need the server start it in the background."""

    def __init__(
        self,
        home: str | Path | None = None,
        *,
        port: int | None = None,
        https_port: int | None = None,
        azure_port: int | None = None,
        listen: str | None = None,
        database_url: str | None = None,
    ) -> None:
        """Open `home` (default `MAFUNZO_HOME`, or `~/.mafunzo`).

        `port` (http) and `https_port` (https) of the address `listen` are where a server that it starts listens; where only
        `port` is given and is 0, both are free ones. `azure_port` is the name that version 0.1.0 had for `https_port`.
        """
        if https_port is not None and azure_port is not None:
            raise InvalidParameter("https_port and azure_port are two names of one port. Pass https_port alone.")
        https_port = azure_port if https_port is None else https_port
        environment = settings.load()
        self.home = Home(Path(home).expanduser().absolute() if home else environment.home)
        self.port = environment.port if port is None else port
        self.https_port = (0 if port == 0 else environment.https_port) if https_port is None else https_port
        self.listen = listen or environment.listen
        self.database_url = database_url or environment.database_url
        self.home_user = getpass.getuser()
        self.database = open_database(self.home, self.database_url)
        self.records = Records(self.database)
        self.artifacts = Artifacts(self.home.artifacts)
        self.blobs = Blobs(self.records, self.artifacts, self.home)
        self._open_verbs(
            Services(
                home=self.home,
                records=self.records,
                artifacts=self.artifacts,
                blobs=self.blobs,
                user=self.home_user,
                home_user=self.home_user,
                cache=environment.cache,
                is_offline=environment.offline,
                up=self.up,
                input_hosts=environment.input_hosts,
                price_per_hour=environment.price_per_hour,
                job_webhook=environment.job_webhook,
            )
        )

    # Each noun's verbs are loaded when they are first used: a command pays for what it does.

    @cached_property
    def models(self) -> Models:
        from mafunzo.control.workspace.models import Models

        return Models(self.services)

    @cached_property
    def registered_models(self) -> RegisteredModels:
        from mafunzo.control.workspace.registered_models import RegisteredModels

        return RegisteredModels(self.services)

    @cached_property
    def data(self) -> DataSets:
        from mafunzo.control.workspace.datasets import DataSets

        return DataSets(self.services)

    @cached_property
    def components(self) -> Components:
        from mafunzo.control.workspace.components import Components

        return Components(self.services)

    @cached_property
    def environments(self) -> Environments:
        from mafunzo.control.workspace.environments import Environments

        return Environments(self.services)

    @cached_property
    def codes(self) -> Codes:
        from mafunzo.control.workspace.components import Codes

        return Codes(self.services)

    @cached_property
    def jobs(self) -> Jobs:
        from mafunzo.control.workspace.jobs import Jobs

        return Jobs(self.services)

    @cached_property
    def endpoints(self) -> Endpoints:
        from mafunzo.control.workspace.endpoints import Endpoints

        return Endpoints(self.services)

    @cached_property
    def batch_endpoints(self) -> BatchEndpoints:
        from mafunzo.control.workspace.batch_endpoints import BatchEndpoints

        return BatchEndpoints(self.services)

    @cached_property
    def deployments(self) -> Deployments:
        from mafunzo.control.workspace.deployments import Deployments

        return Deployments(self.services)

    @cached_property
    def adapters(self) -> Adapters:
        from mafunzo.control.workspace.adapters import Adapters

        return Adapters(self.services)

    @cached_property
    def computes(self) -> Computes:
        from mafunzo.control.workspace.computes import Computes

        return Computes(self.services)

    @cached_property
    def responses(self) -> Responses:
        from mafunzo.control.workspace.responses import Responses

        return Responses(self.services)

    @cached_property
    def users(self) -> Users:
        from mafunzo.control.workspace.users import Users

        return Users(self.services)

    @cached_property
    def versions(self) -> Mapping[AssetType, Versions]:
        from mafunzo.control.workspace.versions import Versions

        return {kind: Versions(self.services, kind) for kind in AssetType}

    def _open_verbs(self, services: Services) -> None:
        self.services, self.user = services, services.user
        for name, member in vars(Workspace).items():
            if isinstance(member, cached_property):
                self.__dict__.pop(name, None)

    def acting_as(self, user: str) -> Workspace:
        """Return this workspace as it is for `user`: what it makes carries their name.

        A view, and not a variable of the thread: who acts is passed on with the workspace, into whatever thread or later
        moment the work happens, and can't leak into another request. It shares the database: close the original only.
        """
        view = copy.copy(self)
        view._open_verbs(replace(self.services, user=user))
        return view

    def finetune(
        self,
        *,
        model: str | Path | Asset | None = None,
        train: str | Path | None = None,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        **parameters: Any,
    ) -> JobHandle:
        """Fine-tune `model` on the conversations of `train`; return the job as soon as it is in the queue.

        `parameters` are the pipeline's inputs (`docs/reference/parameters.md`), or `job_name`, `display_name`, `experiment`,
        `priority`, `force_rerun`, `continue_on_step_failure`, `tags`. Model and rows may also be given by the pipeline's own
        inputs (`mlflow_model_path`, `train_mltable_path` ...). All faults are raised at once, before anything is written.
        """
        return self.jobs.finetune(model=model, train=train, validation=validation, test=test, **parameters)

    def estimate(
        self,
        *,
        model: str | Path | Asset | None = None,
        train: str | Path | None = None,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        **parameters: Any,
    ) -> Estimate:
        """Return what `finetune` with the same arguments would take: rows, tokens, steps, time, memory, disk and cost.

        Model and rows are prepared as the job would prepare them, and the job then finds that in its cache; a few steps are
        taken on the real rows and thrown away. What names the job itself (`job_name`, `tags` ...) is checked, and left to it.
        All faults are raised at once, before anything starts; `OutOfMemory` where the run can't fit.
        """
        job = self.jobs.estimate(model=model, train=train, validation=validation, test=test, **parameters)
        return self.jobs.read_estimate(job.wait().name)

    def compare(self, model: str, data: str | Path, against: str | None = None, **parameters: Any) -> JobHandle:
        """Evaluate `model` and its base (or `against`) on the rows of `data`."""
        return self.jobs.compare(model=model, data=data, against=against, **parameters)

    def batch_score(
        self,
        model: str | Path | Asset | None = None,
        data: str | Path | None = None,
        **parameters: Any,
    ) -> JobHandle:
        """Answer every row of `data` with `model`, at full batch; return the job as soon as it is in the queue.

        `parameters` are those of batch scoring (`docs/reference/parameters.md`), such as `max_new_tokens` and `temperature`, or
        `job_name`, `tags` ... as of `finetune`. A row that can't be answered gets its error in the answer's place. Once the job
        has completed, `jobs.write_predictions(job.name, file)` writes its JSON lines. All faults are raised at once.
        """
        return self.jobs.score(model=model, data=data, **parameters)

    def deploy(
        self,
        model: str | Asset,
        *,
        endpoint: str,
        deployment: str = "default",
        traffic: int | None = None,
        timeout_s: float = 600.0,
        request_timeout_s: float = 90.0,
        scale: Scale = ONE_INSTANCE,
        ttl: str | float | None = None,
        logs_requests: bool = False,
        engine: str = "auto",
    ) -> EndpointHandle:
        """Serve a model behind `endpoint`, which is made if it isn't there; return once it is proven and live.

        One of the catalogue is fetched first, and served unverified: there is nothing to compare it with.

        timeout_s: how long its worker may take to become healthy. request_timeout_s: how long a whole answer may take, and a
        stream may pause. scale: how many workers: `Scale(2, 2)`, or by load `Scale(0, 3)`. ttl: how long it is
        served (`4h`, or seconds), unless it is renewed. logs_requests: keep prompts and answers in the home, for
        `lineage`; `prune` deletes the old ones. engine: what computes it, `torch`, `openvino`,
        `vllm`, or `auto`.
        """
        return self.deployments.deploy(
            model,
            endpoint=endpoint,
            deployment=deployment,
            traffic=traffic,
            timeout_s=timeout_s,
            request_timeout_s=request_timeout_s,
            scale=scale,
            ttl=ttl,
            logs_requests=logs_requests,
            engine=engine,
        )

    def lineage(self, thing: str, text: str | None = None, rows: int = 5) -> Lineage:
        """Trace a model, job or answer (`answer:ID`) back to base, data, parameters and code, and verify every hash on the way.

        text: the `rows` training rows closest to it are listed too; of an answer whose deployment keeps its requests, by
        default those closest to what it says.
        """
        from mafunzo.control.workspace.answer_lineage import ANSWER, trace_answer
        from mafunzo.control.workspace.lineage import trace, with_closest_rows

        is_answer = thing.startswith(ANSWER)
        lineage = trace_answer(self.services, thing.removeprefix(ANSWER)) if is_answer else trace(self.services, thing)
        return with_closest_rows(self.services, lineage, text, rows)

    def backup(self, file: str | Path) -> None:
        """Write the whole home into one file, while everything runs."""
        from mafunzo.control.store.backup import backup

        backup(self.home, self.database, self.artifacts, Path(file))

    def collect(self) -> int:
        """Free the disk of bytes that nothing refers to any more; return how many bytes."""
        return self.artifacts.collect(self.records.referenced_artifacts())

    def status(self) -> HomeStatus:
        """Return how the home stands: its server, its queue, and by kind what takes room on the disk."""
        from mafunzo.control.workspace.status import status

        return status(self.services)

    def prune(
        self, older_than: str | timedelta = "30d", kinds: Iterable[str] = tuple(PruneKind), *, apply: bool = False
    ) -> PruneReport:
        """Delete what hasn't been used for `older_than` (`30d`, `12h`) and nothing needs; only say what, unless to `apply`.

        kinds: of `PruneKind`, by default all. A job that has ended stays listed, with its metrics, and says what of it went and
        when. What a registered model, data version, deployment or open job needs is kept. Raises `InvalidParameter`, and
        `Conflict` beside another pruning.
        """
        from mafunzo.control.workspace.pruning import prune

        return prune(self.services, *prune_request(older_than, kinds), is_applied=apply)

    def up(self) -> ServerAddress:
        """Start the server in the background, unless it runs; return its address once it answers.

        Raises `Conflict` when it runs already, and doesn't listen where it is asked to.
        """
        server = start_in_background(self.home, self.port, self.https_port, self.database_url, listen=self.listen)
        if self.listen not in (LOOPBACK, server.listen):
            raise Conflict(
                f"The server of {self.home.root} runs and listens on {server.listen}, not {self.listen}. Stop it first: "
                "mafunzo down"
            )
        return server

    def serve(self) -> NoReturn:
        """Become the server: it takes this process's place until Ctrl-C or `down` ends it."""
        self.close()
        if self.database_url:
            os.environ["MAFUNZO_DATABASE_URL"] = self.database_url
        argv = [*server_argv(self.home, self.port, self.https_port, self.listen), "--tell"]
        os.execv(argv[0], argv)

    def down(self) -> DownReport:
        """Stop the server and all that it started; return what was freed, after a second look found none of it."""
        from mafunzo.control.workspace.shutdown import shut_down

        return shut_down(self.home, self.database_url)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. What runs goes on."""
        self.database.close()


def restore(file: str | Path, home: str | Path) -> None:
    """Restore a backup into the empty folder `home`, and verify every hash."""
    from mafunzo.control.store.backup import restore as restore_home

    restore_home(Path(file), Home(Path(home)))
