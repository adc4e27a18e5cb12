"""The real Azure SDK against a real server, in the environment that `mafunzo env` prints."""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.entrypoints.azure.client.environment import access_of_home, azure_environment, workspace_config
from tests.support.waiting import until


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose server is ended at the end, with the proof that nothing is left. It fetches from this machine (`web`)."""
    with Workspace(tmp_path_factory.mktemp("home"), port=0) as opened:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MAFUNZO_INPUT_HOSTS", "127.0.0.1")
            opened.up()
        yield opened
        opened.down()


@pytest.fixture(scope="module")
def environment(workspace: Workspace) -> Iterator[dict[str, str]]:
    """The variables, set in this process too while the tests run."""
    variables = azure_environment(access_of_home(workspace.home, workspace.up(), workspace.user), os.environ)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    yield variables
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def credential(environment: dict[str, str]) -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


@pytest.fixture(scope="module")
def client(credential: Any) -> Any:
    """A client of the workspace."""
    from azure.ai.ml import MLClient

    return MLClient(credential, *workspace_config().values())


@pytest.fixture(scope="module")
def wait(client: Any) -> Callable[[str], Any]:
    """Waits for a job to end, and returns it."""

    def wait(name: str) -> Any:
        return until(lambda: ended_job(client, name), lambda: client.jobs.get(name).status)

    return wait


def ended_job(client: Any, name: str) -> Any:
    """Return a job once it has ended, else nothing."""
    job = client.jobs.get(name)
    return job if job.status in ("Completed", "Failed", "Canceled") else None


@dataclass(frozen=True)
class Web:
    """A server of files that isn't ours."""

    url: str
    folder: Path


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """Files elsewhere: a folder, and where Python's own server of files shows it."""
    folder = tmp_path_factory.mktemp("web")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield Web(f"http://127.0.0.1:{server.server_port}", folder)
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def registry(credential: Any) -> Any:
    """A client of the registry."""
    from azure.ai.ml import MLClient

    return MLClient(credential, registry_name="azureml")


@pytest.fixture
def container(client: Any, workspace: Workspace) -> Any:
    """Azure Storage's own client of the datastore's container, opened as the SDK opens it."""
    from azure.storage.blob import ContainerClient

    store = client.datastores.get("workspaceblobstore", include_secrets=True)
    url = f"https://{store.account_name}.blob.{store.endpoint}"
    return ContainerClient(url, store.container_name, credential=store.credentials.sas_token)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files to upload."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n' * 100)
    (tmp_path / "sub" / "more.txt").write_text("more")
    return tmp_path
