"""How many queries a verb sends to the database: as many for a large home as for a small one."""

from collections.abc import Callable, Iterator

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.retention import holders_of
from mafunzo.control.workspace.status import status
from mafunzo.entities.asset import AssetType
from mafunzo.entities.compute import Compute
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.job import Job, Step, StepSpec, StepStatus
from mafunzo.entities.scan import Scan
from tests.support.past_jobs import add_past_jobs
from tests.support.statements import statements_sent

SHARED = f"sha256:{'5' * 64}"
"""An artifact that every open job names."""


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, Workspace]]:
    """A small home, and a large one."""
    folder = tmp_path_factory.mktemp("homes")
    with Workspace(folder / "small") as small, Workspace(folder / "large") as large:
        for workspace, size in ((small, 10), (large, 30)):
            workspace.records.endpoints.add(Endpoint("served"), ("a", "b"))
            grow(workspace, size)
        yield small, large


def grow(workspace: Workspace, size: int) -> None:
    """Add past jobs with what they made, open jobs with a step that runs, endpoints with deployments, computes, users."""
    add_past_jobs(workspace.database, workspace.home, size, has_files=False)
    for number in range(size):
        spec = StepSpec("s", "hello:1", "sha256:0", "true")
        steps = [Step(f"open-{number}", spec, StepStatus.RUNNING, outputs={"out": SHARED})]
        workspace.records.jobs.add(Job(f"open-{number}", "open", "e", "hello:1"), steps)
        workspace.records.endpoints.add(Endpoint(f"endpoint-{number}"), ("a", "b"))
        for endpoint in ("served", f"endpoint-{number}"):
            workspace.records.deployments.add(Deployment(endpoint, f"d-{number}", "tuned-0:1", SHARED))
        workspace.computes.create(Compute(f"cluster-{number}", "local"))
        workspace.users.create(f"user-{number}", "reader")


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(lambda w: w.jobs.list(), id="jobs"),
        pytest.param(lambda w: list(w.jobs.scan(Scan(size=1000))), id="jobs, page by page"),
        pytest.param(lambda w: w.jobs.queue(), id="queue"),
        pytest.param(lambda w: w.jobs.running_steps(), id="steps that run"),
        pytest.param(lambda w: w.models.list(), id="models"),
        pytest.param(lambda w: w.registered_models.list(), id="names of models"),
        pytest.param(lambda w: w.versions[AssetType.DATA].list(), id="data"),
        pytest.param(lambda w: w.components.list(), id="components"),
        pytest.param(lambda w: w.environments.list(), id="environments"),
        pytest.param(lambda w: w.endpoints.list(), id="endpoints"),
        pytest.param(lambda w: list(w.endpoints.with_keys()), id="endpoints with their keys"),
        pytest.param(lambda w: w.deployments.list(), id="deployments"),
        pytest.param(lambda w: w.computes.list(), id="computes"),
        pytest.param(lambda w: w.users.list(), id="users"),
        pytest.param(lambda w: holders_of(w.services, SHARED), id="what holds an artifact"),
        pytest.param(lambda w: w.prune("1d"), id="what would be pruned"),
        pytest.param(lambda w: w.lineage("tuned-0:1"), id="lineage"),
        pytest.param(lambda w: status(w.services), id="status"),
        pytest.param(lambda w: w.jobs.scoreboard(), id="how good estimates were"),
        pytest.param(lambda w: w.jobs.find_step("a" + ".b" * 5000), id="a step whose name has many dots"),
    ],
)
def test_a_verb_sends_as_many_queries_for_a_large_home_as_for_a_small_one(
    verb: Callable[[Workspace], object], homes: tuple[Workspace, Workspace]
) -> None:
    statements = []
    for workspace in homes:
        with statements_sent() as sent:
            verb(workspace)
        statements.append(sent)
    few, many = map(len, statements)
    assert many == few <= 20, "\n".join(statements[1][-3:])
