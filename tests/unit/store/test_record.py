import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from subprocess import Popen

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.compute import Compute
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.entities.job import (
    ArtifactInput,
    Job,
    JobStatus,
    LiteralInput,
    Resources,
    Step,
    StepOutputInput,
    StepSpec,
    StepStatus,
)
from mafunzo.entities.user import Role, User
from mafunzo.errors import Conflict, NewerHome, NotFound
from mafunzo.store import table
from mafunzo.store.database import Database
from mafunzo.store.home import Home
from mafunzo.store.records import Records

NOON = datetime(2026, 5, 6, 12, 0, 0, 250000, tzinfo=UTC)
ADD_JOBS = """
import sys
from pathlib import Path
from mafunzo.entities.job import Job
from mafunzo.errors import Conflict
from mafunzo.store.opening import open_database
from mafunzo.store.home import Home
from mafunzo.store.records import Records
records = Records(open_database(Home(Path(sys.argv[1])), sys.argv[2] or None))
won = 0
for number in range(15):
    try:
        records.add_job(Job(f"job-{number}", "", "e", "c:1"), [])
        won += 1
    except Conflict:
        pass
print(won)
"""


numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def _hash(letter: str) -> str:
    return "sha256:" + letter * 64


def _asset(name: str = "chat", version: str = "1", **fields: object) -> Asset:
    key = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, name, version)
    return replace(Asset(key, FolderType.MLFLOW_MODEL, _hash("a")), **fields)  # type: ignore[arg-type]


def _job(name: str = "job", **fields: object) -> Job:
    return replace(Job(name, "A job", "experiment", "pipeline:1"), **fields)  # type: ignore[arg-type]


def _step(job: str = "job", name: str = "finetune", component: str = "finetune:1", **fields: object) -> Step:
    spec = StepSpec(name, component, "code", "run ${{inputs.x}}")
    return replace(Step(job, spec), **fields)  # type: ignore[arg-type]


@pytest.fixture
def records(database: Database) -> Records:
    return Records(database)


# Assets


def test_an_asset_comes_back_as_it_was_added(records: Records) -> None:
    asset = _asset(
        description="Ünï",
        tags={"b": "2", "a": "1"},
        properties={"rows": 400, "loss": 1.0, "nested": {"list": [1, None, True, "\u0000"]}},
        created_by="me",
        created_at=NOON,
    )
    assert records.add_asset(asset) == asset
    back = records.get_asset(asset.key)
    assert back == asset
    assert (type(back.folder_type), type(back.key.type), type(back.properties["loss"])) == (
        FolderType,
        AssetType,
        float,
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_properties_come_back_as_they_were(records: Records, properties: dict[str, object]) -> None:
    asset = records.add_asset(_asset(version=secrets.token_hex(8), properties=properties))
    assert records.get_asset(asset.key).properties == properties


def test_an_asset_without_a_moment_gets_one(records: Records) -> None:
    added = records.add_asset(_asset())
    assert added.created_at is not None and added == records.get_asset(added.key)


def test_a_version_is_never_added_twice(records: Records) -> None:
    records.add_asset(_asset())
    with pytest.raises(Conflict, match="Model chat:1 exists already"):
        records.add_asset(_asset(description="other"))
    assert records.get_asset(_asset().key).description == ""


def test_the_same_name_may_stand_in_another_scope_and_type(records: Records) -> None:
    keys = [
        AssetKey(scope, type, "chat", "1")
        for scope in (WORKSPACE_SCOPE, "registry:azureml")
        for type in (AssetType.MODEL, AssetType.DATA)
    ]
    for key in keys:
        records.add_asset(Asset(key, FolderType.URI_FOLDER))
    assert {asset.key for asset in records.list_assets()} == set(keys)
    assert [asset.key for asset in records.list_assets(scope="registry:azureml", type=AssetType.DATA)] == [keys[3]]


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        pytest.param("chat", "3", r"No model 'chat:3' in workspace\. Versions of chat: 1, 2\.", id="another version"),
        pytest.param("chatt", "1", r"No model 'chatt:1' in workspace\. Did you mean chat\?", id="a typing error"),
        pytest.param("zebra", "1", r"No model 'zebra:1' in workspace\.$", id="nothing like it"),
    ],
)
def test_a_missing_asset_names_what_is_near(records: Records, name: str, version: str, said: str) -> None:
    records.add_asset(_asset())
    records.add_asset(_asset(version="2"))
    with pytest.raises(NotFound, match=said):
        records.get_asset(AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, name, version))


def test_the_latest_version_is_the_one_added_last_that_is_not_archived(records: Records) -> None:
    for version in ("10", "9", "11"):
        records.add_asset(_asset(version=version))
    records.update_asset(_asset(version="11", is_archived=True))
    assert records.latest_asset(WORKSPACE_SCOPE, AssetType.MODEL, "chat").version == "9"
    with pytest.raises(NotFound, match="No model 'cat:latest'"):
        records.latest_asset(WORKSPACE_SCOPE, AssetType.MODEL, "cat")


def test_assets_are_listed_newest_first_without_archived_ones(records: Records) -> None:
    for name, version in (("a", "1"), ("b", "1"), ("a", "2")):
        records.add_asset(_asset(name, version))
    records.update_asset(_asset("b", is_archived=True))
    assert [str(asset.key) for asset in records.list_assets()] == ["a:2", "a:1"]
    assert [str(asset.key) for asset in records.list_assets(with_archived=True)] == ["a:2", "b:1", "a:1"]
    assert [str(asset.key) for asset in records.list_assets(name="a")] == ["a:2", "a:1"]


def test_an_update_changes_what_is_said_of_an_asset_but_never_its_bytes(records: Records) -> None:
    added = records.add_asset(_asset())
    records.update_asset(replace(added, tags={"good": "yes"}, created_at=None))
    assert records.get_asset(added.key) == replace(added, tags={"good": "yes"})
    with pytest.raises(Conflict, match=r"Model chat:1 has other bytes already"):
        records.update_asset(replace(added, artifact=_hash("b")))
    with pytest.raises(NotFound, match="chat:2"):
        records.update_asset(_asset(version="2"))


def test_an_asset_on_offer_can_get_its_bytes_later(records: Records) -> None:
    offered = records.add_asset(_asset(artifact=None))
    records.update_asset(replace(offered, artifact=_hash("f")))
    assert records.get_asset(offered.key).artifact == _hash("f")


def test_a_label_is_on_one_version_at_a_time_and_goes_with_it(records: Records) -> None:
    first, second = records.add_asset(_asset()), records.add_asset(_asset(version="2"))
    of = (WORKSPACE_SCOPE, AssetType.MODEL, "chat")
    records.set_label(first.key, "live")
    records.set_label(second.key, "live")
    records.set_label(first.key, "old")
    assert records.get_labelled(*of, "live") == second
    assert records.get_labelled(*of, "latest") == second
    records.delete_asset(second.key)
    with pytest.raises(NotFound, match=r"has the label 'live'\. Labels: latest, old\."):
        records.get_labelled(*of, "live")
    with pytest.raises(Conflict, match="'latest' is always"):
        records.set_label(first.key, "latest")


def test_a_deleted_asset_is_gone(records: Records) -> None:
    records.add_asset(_asset())
    records.delete_asset(_asset().key)
    assert records.list_assets() == []
    with pytest.raises(NotFound):
        records.delete_asset(_asset().key)


# Jobs


def test_a_job_and_its_steps_come_back_as_they_were_added(records: Records) -> None:
    job = _job(
        inputs={"rate": 1e-5, "model": {"name": "m", "version": "1"}},
        outputs={"model": StepOutputInput("finetune", "folder")},
        priority=3,
        tags={"a": "b"},
        error={"code": "failed", "message": "m"},
        created_at=NOON,
        started_at=NOON + timedelta(seconds=1),
    )
    spec = StepSpec(
        "finetune",
        "finetune:1",
        "code",
        "run",
        inputs={
            "rate": LiteralInput(1.0),
            "steps": LiteralInput(1),
            "is_on": LiteralInput(True),
            "text": LiteralInput("1"),
            "data": ArtifactInput(_hash("b"), "train.jsonl"),
            "model": StepOutputInput("import", "model"),
        },
        resources=Resources(2, 1, 4096, 2),
        code_artifact=_hash("c"),
    )
    steps = [Step("job", spec, started_at=NOON, outputs={"folder": _hash("d")}), _step(name="a-later-one")]
    assert records.add_job(job, steps) == job
    assert records.get_job("job") == job
    assert records.list_steps("job") == steps
    types = {name: type(value) for name, value in records.list_steps("job")[0].spec.inputs.items()}
    assert types == {name: type(value) for name, value in spec.inputs.items()}
    literals = [records.list_steps("job")[0].spec.inputs[name] for name in ("rate", "steps", "is_on", "text")]
    assert [type(literal.value) for literal in literals if isinstance(literal, LiteralInput)] == [float, int, bool, str]


def test_a_job_whose_steps_cannot_be_added_is_not_there_either(records: Records) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        records.add_job(_job(), [_step(), _step()])
    assert records.list_jobs() == []
    records.add_job(_job(), [_step()])
    with pytest.raises(Conflict, match="Job job exists already"):
        records.add_job(_job(), [])
    assert len(records.list_steps("job")) == 1


def test_processes_that_add_the_same_jobs_at_once_add_each_once(
    records: Records, home: Home, url: str | None, start_python: Callable[..., Popen[str]]
) -> None:
    processes = [start_python(ADD_JOBS, home.root, url or "") for _ in range(3)]
    won = [process.communicate() for process in processes]
    assert sum(int(out or 0) for out, _ in won) == 15, won
    assert len(records.list_jobs()) == 15


def test_the_queue_is_in_order_of_priority_then_age_and_without_what_ended(records: Records) -> None:
    for name, priority, status in (
        ("old", 0, JobStatus.QUEUED),
        ("urgent", 5, JobStatus.QUEUED),
        ("done", 9, JobStatus.COMPLETED),
        ("running", 0, JobStatus.RUNNING),
        ("also urgent", 5, JobStatus.QUEUED),
    ):
        records.add_job(_job(name, priority=priority, status=status), [])
    assert [job.name for job in records.queue()] == ["urgent", "also urgent", "old", "running"]


def test_jobs_are_listed_by_status_and_age(records: Records) -> None:
    for name, status in (("a", JobStatus.QUEUED), ("b", JobStatus.FAILED), ("c", JobStatus.QUEUED)):
        records.add_job(_job(name, status=status), [])
    assert [job.name for job in records.list_jobs()] == ["c", "b", "a"]
    assert [job.name for job in records.list_jobs([JobStatus.QUEUED], newest_first=False)] == ["a", "c"]
    assert records.list_jobs([]) == []


def test_a_request_to_cancel_is_not_lost_to_a_state_read_before_it(records: Records) -> None:
    read_before = records.add_job(_job(), [])
    records.request_cancel("job")
    records.update_job(replace(read_before, status=JobStatus.RUNNING))
    job = records.get_job("job")
    assert (job.status, job.is_cancel_requested) == (JobStatus.RUNNING, True)


def test_a_job_that_is_not_there_cannot_be_updated(records: Records) -> None:
    records.add_job(_job("finetune-1"), [])
    with pytest.raises(NotFound, match=r"No job 'finetune-2'\. Did you mean finetune-1\?"):
        records.update_job(_job("finetune-2"))
    with pytest.raises(NotFound, match="Job finetune-1 has no step 'evaluate'"):
        records.update_step(_step("finetune-1", "evaluate"))
    assert records.list_steps("finetune-2") == []


def test_only_a_job_that_ended_can_be_deleted_and_its_steps_go_with_it(records: Records) -> None:
    job = records.add_job(_job(), [_step(outputs={"folder": _hash("e")})])
    with pytest.raises(Conflict, match=r"Job job is queued\. Cancel it first\."):
        records.delete_job("job")
    assert records.referenced_artifacts() == {_hash("e")}
    records.update_job(replace(job, status=JobStatus.CANCELED))
    records.delete_job("job")
    assert (records.list_steps("job"), records.list_jobs(), records.referenced_artifacts()) == ([], [], set())


def test_the_cache_gives_the_step_that_was_done_last(records: Records) -> None:
    done = {"cache_key": "k", "status": StepStatus.COMPLETED, "outputs": {"o": _hash("a")}}
    records.add_job(_job(), [_step(name="first", ended_at=NOON + timedelta(hours=1), **done)])
    records.add_job(_job("2"), [_step("2", "second", ended_at=NOON, **done)])
    unfinished = [
        _step("3", "a", cache_key="k"),
        _step("3", "b", cache_key="k", status=StepStatus.FAILED, ended_at=NOON),
    ]
    records.add_job(_job("3"), [*unfinished, _step("3", "other", **done | {"cache_key": "other"})])
    found = records.find_cached("k")
    assert found is not None and found.name == "first"
    records.update_step(_step("3", "a", ended_at=NOON + timedelta(hours=2), **done | {"status": StepStatus.CACHED}))
    found = records.find_cached("k")
    assert found is not None and found.name == "a"
    assert records.find_cached("unknown") is None


def test_an_earlier_step_like_this_one_is_found_whatever_its_version(records: Records) -> None:
    done = {"status": StepStatus.COMPLETED, "ended_at": NOON}
    records.add_job(
        _job(), [_step(component="finetune:1.0.1", **done), _step(name="another", component="finetune:1.0.1")]
    )
    found = records.last_step_like("finetune:1.0.2", "finetune")
    assert found is not None and found.spec.component == "finetune:1.0.1"
    assert records.last_step_like("finetune", "another") is None
    assert records.last_step_like("evaluate:1.0.1", "finetune") is None


# Endpoints


def test_an_endpoint_and_its_deployments_come_back_as_they_were(records: Records) -> None:
    endpoint = Endpoint("chat", {"blue": 90, "green": 10}, tags={"a": "b"}, created_by="me", created_at=NOON)
    deployment = Deployment(
        "chat",
        "blue",
        "m:1",
        _hash("a"),
        port=8001,
        verification={"tolerance": 0.1},
        created_at=NOON,
        request_timeout_s=5.0,
    )
    assert records.add_endpoint(endpoint, ("one", "two")) == endpoint
    assert records.add_deployment(deployment) == deployment
    assert (records.get_endpoint("chat"), records.list_endpoints()) == (endpoint, [endpoint])
    assert records.get_deployment("chat", "blue") == deployment
    assert (records.list_deployments("chat"), records.list_deployments("other")) == ([deployment], [])


def test_keys_rest_encrypted_and_can_be_replaced(records: Records, database: Database) -> None:
    records.add_endpoint(Endpoint("chat"), ("first-key", "second-key"))
    assert records.endpoint_keys("chat") == ("first-key", "second-key")
    with database.snapshot() as connection:
        assert "first-key" not in str(connection.execute(sa.select(table.endpoint)).all())
    records.update_endpoint(Endpoint("chat", {"blue": 100}))
    assert records.endpoint_keys("chat") == ("first-key", "second-key")
    records.set_endpoint_keys("chat", ("third", "fourth"))
    assert records.endpoint_keys("chat") == ("third", "fourth")


def test_that_something_is_being_deleted_is_not_lost_to_a_state_read_before(records: Records) -> None:
    endpoint = records.add_endpoint(Endpoint("chat"), ("1", "2"))
    deployment = records.add_deployment(Deployment("chat", "blue", "m:1", _hash("a")))
    records.update_deployment(replace(deployment, status=DeploymentStatus.DELETING))
    records.update_deployment(replace(deployment, status=DeploymentStatus.HEALTHY, port=8001))
    records.update_endpoint(replace(endpoint, is_deleting=True))
    records.update_endpoint(replace(endpoint, traffic_percent={"blue": 100}))
    assert records.get_deployment("chat", "blue").status is DeploymentStatus.DELETING
    assert records.get_deployment("chat", "blue").port == 8001
    assert records.get_endpoint("chat") == replace(endpoint, is_deleting=True, traffic_percent={"blue": 100})
    with pytest.raises(Conflict, match="is being deleted"):
        records.add_deployment(Deployment("chat", "green", "m:1", _hash("a")))


def test_faults_of_endpoints_name_what_is_near(records: Records) -> None:
    records.add_endpoint(Endpoint("chat"), ("1", "2"))
    records.add_deployment(Deployment("chat", "blue", "m:1", _hash("a")))
    with pytest.raises(Conflict, match="Endpoint chat exists already"):
        records.add_endpoint(Endpoint("chat"), ("1", "2"))
    with pytest.raises(Conflict, match="has a deployment 'blue' already"):
        records.add_deployment(Deployment("chat", "blue", "m:2", _hash("a")))
    with pytest.raises(NotFound, match=r"No endpoint 'chta'\. Did you mean chat\?"):
        records.add_deployment(Deployment("chta", "blue", "m:1", _hash("a")))
    with pytest.raises(NotFound, match=r"Endpoint chat has no deployment 'bleu'\. Did you mean blue\?"):
        records.get_deployment("chat", "bleu")


def test_an_endpoint_takes_its_deployments_with_it(records: Records) -> None:
    records.add_endpoint(Endpoint("chat"), ("1", "2"))
    records.add_deployment(Deployment("chat", "blue", "m:1", _hash("a")))
    records.delete_endpoint("chat")
    assert (records.list_endpoints(), records.list_deployments()) == ([], [])
    records.add_endpoint(Endpoint("chat"), ("1", "2"))
    records.add_deployment(Deployment("chat", "blue", "m:1", _hash("a")))
    records.delete_deployment("chat", "blue")
    assert records.list_deployments() == []
    with pytest.raises(NotFound):
        records.delete_deployment("chat", "blue")


# All of them


# Computes and users


def test_a_compute_that_is_changed_keeps_its_maker(records: Records) -> None:
    records.put_compute(Compute("big", "Standard_NC6", created_by="amina", created_at=NOON))
    changed = records.put_compute(Compute("big", "Standard_NC6", max_instances=4, created_by="juma"))
    assert (changed.created_by, changed.created_at, changed.max_instances) == ("amina", NOON, 4)
    assert records.get_compute("big") == changed


def test_a_user_is_found_by_the_hash_of_the_newest_token(records: Records) -> None:
    user = User("amina", Role.READER, token_id="abc", created_by="root", created_at=NOON, token_at=NOON)
    assert records.add_user(user, "hash 1") == user
    assert (records.get_user("amina"), records.find_user("hash 1"), records.list_users()) == (user, user, [user])
    revoked = replace(user, is_revoked=True)
    records.update_user(revoked)
    assert records.find_user("hash 1") == revoked
    records.update_user(replace(user, token_id="def"), "hash 2")
    assert records.find_user("hash 1") is None
    assert records.find_user("hash 2") == replace(user, token_id="def")


def test_faults_of_users_name_what_is_near(records: Records) -> None:
    records.add_user(User("amina", Role.OWNER, token_id="abc"), "hash")
    with pytest.raises(Conflict, match="User amina exists already"):
        records.add_user(User("amina", Role.READER, token_id="def"), "hash 2")
    for verb in (records.get_user, records.delete_user):
        with pytest.raises(NotFound, match=r"No user 'amna'\. Did you mean amina\?"):
            verb("amna")
    records.delete_user("amina")
    assert records.list_users() == []


def test_every_hash_in_any_record_is_referenced(records: Records) -> None:
    records.add_asset(_asset(artifact=_hash("1"), properties={"data": {"train": _hash("2")}}))
    spec = StepSpec("s", "c:1", "code", "run", {"x": ArtifactInput(_hash("3"))}, code_artifact=_hash("4"))
    job = _job(inputs={"model": {"artifact": _hash("5")}})
    records.add_job(job, [Step("job", spec, outputs={"o": _hash("6")}, status=StepStatus.COMPLETED)])
    records.add_endpoint(Endpoint("chat"), ("1", "2"))
    records.add_deployment(Deployment("chat", "blue", "m:1", _hash("7")))
    assert records.referenced_artifacts() == {_hash(digit) for digit in "1234567"}


def test_a_record_of_a_newer_version_is_refused_instead_of_cut(records: Records, database: Database) -> None:
    records.add_job(_job(), [])
    with database.transaction() as connection:
        body = connection.execute(sa.select(table.job.c.body)).scalar_one()
        connection.execute(sa.update(table.job).values(body=body | {"mood": "good"}))
    with pytest.raises(NewerHome, match="A stored Job has the field mood"):
        records.get_job("job")
