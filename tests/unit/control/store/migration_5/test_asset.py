"""What migration 5 makes of the assets and blobs of a database of version 4."""

from typing import Any

import pytest

from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.blob import Blobs
from mafunzo.control.store.database import Database
from mafunzo.control.store.home import Home
from mafunzo.control.store.migration_5.asset import asset_body
from mafunzo.control.store.migration_5.component import component_of, source_of
from mafunzo.control.store.migrations import MIGRATIONS, migrate
from mafunzo.control.store.records import Records
from mafunzo.entities.asset import WORKSPACE_SCOPE, AssetKey, AssetType
from mafunzo.entities.environment import Environment, environment_of

LONG = "azureml://subscriptions/0/resourcegroups/m/workspaces/m/datastores/workspaceblobstore/paths"
SHORT = "azureml://datastores/workspaceblobstore/paths"
UPLOADED = {"datastore": "workspaceblobstore", "path": "LocalUpload/0152/weights"}
CONDA = """
channels: [conda-forge]
dependencies:
- python=3.10.4=h12debd9_0
- pip
- conda-forge::gcc=12
- pip: [humanize==4.9.0, "numpy>=1.26 "]
variables: {GREETING: hello, LEVEL: 3}
"""
FACTS = {
    "packages": ["humanize==4.9.0", "numpy>=1.26"],
    "python": "3.10.4",
    "variables": {"GREETING": "hello", "LEVEL": "3"},
    "conda_packages": ["conda-forge::gcc=12"],
    "image": "any",
}
NO_PACKAGES: dict[str, Any] = {"packages": [], "python": "", "variables": {}, "conda_packages": [], "image": ""}
COMPONENT = {"type": "command", "name": "mine", "command": "true"}
ROWS: list[Any] = [
    pytest.param(
        "model",
        {
            "uploaded": "LocalUpload/0152/weights",
            "path": f"{LONG}/LocalUpload/0152/weights",
            "user_properties": {"c": "d"},
            "said": {},
        },
        {"uploaded": "LocalUpload/0152/weights", "source": UPLOADED, "user_properties": {"c": "d"}},
        {"azure": {"modelUri": f"{LONG}/LocalUpload/0152/weights"}},
        id="a model that was uploaded",
    ),
    pytest.param(
        "model",
        {
            "job": "j",
            "job_output": "artifacts",
            "path": "azureml://jobs/j/outputs/artifacts/paths/outputs/",
            "said": {"stage": "Staging"},
        },
        {"job": "j", "job_output": "artifacts", "source": {"job": "j", "output": "artifacts", "path": "outputs"}},
        {"azure": {"modelUri": "azureml://jobs/j/outputs/artifacts/paths/outputs/", "stage": "Staging"}},
        id="a model of a job that a client registered",
    ),
    pytest.param(
        "model",
        {"job": "j", "step": "package_model", "output": "out", "uri": "azureml://jobs/j/outputs/out"},
        {"job": "j", "step": "package_model", "output": "out"},
        {},
        id="a model that a step made",
    ),
    pytest.param("model", {"folder": "/tmp/weights"}, {"folder": "/tmp/weights"}, {}, id="a model of a folder"),
    pytest.param(
        "model",
        {"job": "j", "mlflow_source": "runs:/r/m", "mlflow_run_id": "r", "mlflow_model_id": ""},
        {"job": "j"},
        {"mlflow": {"source": "runs:/r/m", "run_id": "r", "model_id": ""}},
        id="a model that MLflow registered",
    ),
    pytest.param(
        "data",
        {"uri": f"{SHORT}/LocalUpload/0152/weights", "said": {"properties": {"p": "q"}}},
        {"source": UPLOADED},
        {"azure": {"properties": {"p": "q"}, "dataUri": f"{SHORT}/LocalUpload/0152/weights"}},
        id="data that was uploaded",
    ),
    pytest.param(
        "data",
        {"job": "j", "step": "s", "output": "out", "uri": f"{LONG}/assets/data/mine/7/out"},
        {"job": "j", "step": "s", "output": "out", "shown_at": "assets/data/mine/7/out"},
        {},
        id="data that a step made",
    ),
    pytest.param(
        "data",
        {"uri": f"{LONG}/assets/data/another/7/out"},
        {"source": {"datastore": "workspaceblobstore", "path": "assets/data/another/7/out"}},
        {"azure": {"dataUri": f"{LONG}/assets/data/another/7/out"}},
        id="data that another one shows",
    ),
    pytest.param(
        "data",
        {"uri": "azureml://jobs/j/outputs/out", "said": {}},
        {"source": {"job": "j", "output": "out", "path": ""}},
        {"azure": {"dataUri": "azureml://jobs/j/outputs/out"}},
        id="data of a job",
    ),
    pytest.param(
        "data",
        {"uri": "https://far/words.txt", "said": {"referencedUris": ["./a"]}},
        {"source": {"url": "https://far/words.txt"}},
        {"azure": {"dataUri": "https://far/words.txt", "referencedUris": ["./a"]}},
        id="data of the web",
    ),
    pytest.param("data", {"folder": "/tmp/rows"}, {"folder": "/tmp/rows"}, {}, id="a mirror"),
    pytest.param(
        "environment",
        {"body": {"properties": {"image": "any", "condaFile": CONDA, "isAnonymous": False}}},
        FACTS,
        {"azure": {"image": "any", "condaFile": CONDA, "isAnonymous": False}},
        id="an environment",
    ),
    pytest.param("environment", {"body": {"properties": {}}}, NO_PACKAGES, {}, id="an environment of nothing"),
    pytest.param(
        "code",
        {
            "uri": "https://127.0.0.1:28443/mafunzo.blob.local/code-f1/src",
            "hash": "9e",
            "hash_version": "2",
            "is_anonymous": False,
        },
        {"container": "code-f1", "path": "src", "hash": "9e", "hash_version": "2"},
        {"azure": {"codeUri": "https://127.0.0.1:28443/mafunzo.blob.local/code-f1/src"}},
        id="code in a container of its own",
    ),
    pytest.param(
        "code",
        {"uri": f"{SHORT}/LocalUpload/4c/src", "hash": "", "hash_version": "", "is_anonymous": False},
        {"container": "azureml-blobstore", "path": "LocalUpload/4c/src", "hash": "", "hash_version": ""},
        {"azure": {"codeUri": f"{SHORT}/LocalUpload/4c/src"}},
        id="code in the datastore",
    ),
    pytest.param(
        "component",
        {"spec": COMPONENT, "is_anonymous": False},
        {"component": component_of(COMPONENT), "source": source_of(COMPONENT), "user_properties": {}},
        {"azure": {"componentSpec": COMPONENT}},
        id="a component",
    ),
]


@pytest.mark.parametrize(("type", "old", "properties", "echoes"), ROWS)
def test_an_asset_says_neutral_facts_and_keeps_the_rest_as_an_echo(
    type: str, old: dict[str, Any], properties: dict[str, Any], echoes: dict[str, Any]
) -> None:
    body = {"folder_type": "uri_folder", "description": "d", "tags": {}, "properties": old, "created_by": "amina"}
    new = {"properties": properties, "is_anonymous": False, "echoes": echoes}
    assert asset_body(type, "mine", "7", body) == body | new


@pytest.mark.parametrize(
    ("type", "old"),
    [
        ("component", {"spec": COMPONENT, "is_anonymous": True}),
        ("environment", {"body": {"properties": {"isAnonymous": True}}}),
    ],
)
def test_what_has_no_name_of_its_own_says_so_in_one_way(type: str, old: dict[str, Any]) -> None:
    assert asset_body(type, "mine", "7", {"properties": old})["is_anonymous"] is True


OLD_ROWS = """
INSERT INTO asset (scope, type, name, version, is_archived, created_at, body) VALUES (
    'workspace', 'environment', 'small', '2', false, '2026-01-02 03:04:05.000000',
    '{"folder_type": "uri_folder", "properties": {"body": {"properties": {"image": "any"}}}, "created_by": "amina"}');
INSERT INTO job (name, status, priority, is_cancel_requested, created_at, body) VALUES
    ('j', 'completed', 0, false, '2026-01-02 03:04:05.000000', '{}');
INSERT INTO step (job, name, position, component_name, status, cache_key, body) VALUES
    ('j', 's', 0, 'c', 'done', 'k', '{}');
INSERT INTO container (name, modified_at, body) VALUES
    ('azureml-blobstore', '2026-01-02 03:04:05.000000', '{"etag": "1"}'),
    ('azureml', '2026-01-02 03:04:05.000000', '{"etag": "1"}')
"""
SHOWN = [
    ("azureml-blobstore", "azureml/j/out/a.txt", True),
    ("azureml-blobstore", "azureml/j.s/out/a.txt", True),
    ("azureml", "ExperimentRun/dcid.j/user_logs/std_log.txt", True),
    ("azureml", "ExperimentRun/dcid.j.s/user_logs/std_log.txt", True),
    ("azureml-blobstore", "azureml/jj/out/a.txt", False),
    ("azureml-blobstore", "LocalUpload/j/a.txt", False),
]


def test_a_database_of_version_4_is_read_and_its_blobs_go_with_their_job(home: Home, url: str | None) -> None:
    database = Database(home, url)
    migrate(database, MIGRATIONS[:4])
    with database.transaction() as connection:
        shown = (
            f"INSERT INTO blob (container, name, artifact, modified_at, body) VALUES ('{container}', '{name}', 'sha256:0', "
            '\'2026-01-02 03:04:05.000000\', \'{"size": 1, "etag": "1"}\')'
            for container, name, _ in SHOWN
        )
        for statement in [*OLD_ROWS.split(";"), *shown]:
            connection.exec_driver_sql(statement)
    migrate(database)
    records = Records(database)
    (environment,) = records.assets.list(WORKSPACE_SCOPE, AssetType.ENVIRONMENT)
    assert environment.key == AssetKey(WORKSPACE_SCOPE, AssetType.ENVIRONMENT, "small", "2")
    assert environment_of(environment) == Environment("small", "2", image="any")
    blobs = Blobs(records, Artifacts(home.artifacts), home)
    assert blobs.withdraw_views("job:j") == {"sha256:0"}
    left = {(blob.container, blob.name) for name in ("azureml-blobstore", "azureml") for blob in blobs.list(name)}
    assert left == {(container, name) for container, name, is_of_job in SHOWN if not is_of_job}
    database.close()
