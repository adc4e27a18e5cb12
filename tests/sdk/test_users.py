"""A team on one server: what each role may do with the real Azure SDK, whose name stands on what, and what is written down."""

import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import httpx
import mlflow
import pytest
from azure.ai.ml import MLClient, command
from azure.ai.ml.entities import AmlCompute, Data, Environment, ManagedOnlineEndpoint
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import ManagedIdentityCredential
from azure.storage.blob import ContainerClient

from mafunzo import Workspace
from mafunzo.entrypoints.azure.client.environment import access_of_user, azure_environment, workspace_config
from mafunzo.entrypoints.http.listen import names_of
from mafunzo.errors import Conflict, RefusedError
from tests.support.command_line import Shell
from tests.support.waiting import LIMIT_S

ADDRESS = "127.0.0.2"
"""An address of this machine that a server on its default address doesn't have."""


class Team:
    """A home that others share, and its users' tokens in files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shell = folder, Shell(folder / "home")
        self.ca_file = folder / "ca.pem"

    def hire(self, name: str, role: str) -> Path:
        file = self.folder / f"{name}.token"
        self.shell("user", "create", name, "--role", role, "--token-file", file)
        return file

    def listen(self) -> str:
        """Start the server; return its https address."""
        self.shell("up", "--detach", "--listen", ADDRESS)
        self.shell("env", "--write-ca", self.ca_file)
        return json.loads(self.shell("up", "--detach", "--json"))["azure"]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    made = Team(tmp_path_factory.mktemp("team"))
    yield made
    made.shell("down")


@pytest.fixture(scope="module")
def server(team: Team) -> str:
    for name, role in {"olga": "owner", "rita": "reader", "cyril": "contributor", "carol": "contributor"}.items():
        team.hire(name, role)
    return team.listen()


@pytest.fixture
def as_user(team: Team, server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Become a user, as on a machine of theirs: their environment, and a client with a credential of its own."""

    def become(name: str) -> MLClient:
        access = access_of_user(server, team.folder / f"{name}.token", team.ca_file)
        for variable, value in azure_environment(access, os.environ).items():
            monkeypatch.setenv(variable, value)
        return MLClient(ManagedIdentityCredential(), *workspace_config().values())

    return become


def told(team: Team, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(team.shell("user", "log", "--json", *words))
    return found


def test_nobody_else_is_let_in_before_there_is_an_owner(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "home")
    for words in (["up", "--listen", ADDRESS], ["up", "--listen", ADDRESS, "--detach"]):
        refused = shell.process(*words, code=3)
        assert "mafunzo user create NAME --role owner" in refused
    assert "Nothing was running" in shell("down")


def test_a_token_is_shown_once_or_written_for_its_user_only(team: Team, server: str) -> None:
    shown = json.loads(team.shell("user", "create", "temp", "--role", "reader", "--json"))
    assert shown["user"]["role"] == "reader" and len(shown["token"]) > 40
    again = team.shell("user", "show", "temp") + team.shell("user", "list") + team.shell("user", "list", "--json")
    assert shown["token"] not in again and shown["user"]["token_id"] in again
    assert stat.S_IMODE((team.folder / "rita.token").stat().st_mode) == 0o600
    assert "exists already" in team.shell("user", "rotate", "temp", "--token-file", team.folder / "rita.token", code=2)
    team.shell("user", "delete", "temp")
    assert "No user 'temp'" in team.shell("user", "show", "temp", code=2)


def test_a_reader_looks_at_everything_and_changes_nothing(as_user: Any, folder: Path) -> None:
    client = as_user("rita")
    assert client.workspaces.get().name == "mafunzo"
    assert "local" in {compute.name for compute in client.compute.list()}
    assert list(client.jobs.list()) == []
    told = r"AuthorizationFailed.*User rita, whose role is reader, may not put compute: it needs the role contributor"
    with pytest.raises(HttpResponseError, match=f"(?s){told}") as refused:
        client.compute.begin_create_or_update(AmlCompute(name="big", size="Standard_NC6")).result()
    assert refused.value.status_code == 403
    with pytest.raises(HttpResponseError, match="may not put endpoint"):
        client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="chat")).result()
    with pytest.raises(HttpResponseError):
        client.data.create_or_update(Data(name="d", path=str(folder), type="uri_folder"))


def test_a_users_token_opens_blobs_as_far_as_their_role_goes(as_user: Any) -> None:
    store = as_user("cyril").datastores.get("workspaceblobstore")

    def container() -> ContainerClient:
        url = f"https://{store.account_name}.blob.{store.endpoint}"
        return ContainerClient(url, store.container_name, credential=ManagedIdentityCredential())

    container().upload_blob("by-token.txt", b"a")
    as_user("rita")
    assert container().download_blob("by-token.txt").readall() == b"a"
    for name in ("by-token.txt", "another.txt"):
        with pytest.raises(HttpResponseError, match="it allows 'rl', not 'w'"):
            container().upload_blob(name, b"b", overwrite=True)


def test_a_reader_shares_nothing_and_has_no_model_fetched(as_user: Any) -> None:
    with pytest.raises(HttpResponseError, match="may not share asset: it needs the role contributor"):
        as_user("rita").models.share(
            "any", "1", share_with_name="ours", share_with_version="1", registry_name="azureml"
        )
    with pytest.raises(HttpResponseError, match="may not fetch registry model: it needs the role contributor"):
        MLClient(ManagedIdentityCredential(), registry_name="azureml").models.download("tiny-llama", version="1")


def test_what_a_user_makes_carries_their_name(as_user: Any, folder: Path) -> None:
    client = as_user("cyril")
    client.compute.begin_create_or_update(AmlCompute(name="big", size="Standard_NC6")).result()
    data = client.data.create_or_update(Data(name="rows", path=str(folder), type="uri_folder"))
    endpoint = client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="chat")).result()
    assert data.creation_context.created_by == "cyril"
    assert client.data.get("rows", "1").creation_context.created_by == "cyril"
    assert client.online_endpoints.get_keys("chat").primary_key
    assert endpoint.scoring_uri.startswith(f"https://{ADDRESS}:")
    assert as_user("rita").data.get("rows", "1").creation_context.created_by == "cyril"
    client = as_user("carol")
    client.compute.begin_create_or_update(AmlCompute(name="big", size="Standard_NC6", max_instances=2)).result()
    for deleting, name in ((client.compute.begin_delete, "big"), (client.online_endpoints.begin_delete, "chat")):
        with pytest.raises(HttpResponseError, match="was made by cyril, and needs them or an owner") as refused:
            deleting(name).wait()
        assert refused.value.status_code == 403
    with pytest.raises(HttpResponseError, match="needs the role owner"):
        client.online_endpoints.begin_regenerate_keys("chat", key_type="primary").wait()
    as_user("olga").online_endpoints.begin_regenerate_keys("chat", key_type="primary").wait()
    as_user("cyril").compute.begin_delete("big").wait()
    as_user("olga").online_endpoints.begin_delete("chat").wait()


def test_files_open_for_a_user_as_far_as_their_role_goes(as_user: Any, team: Team) -> None:
    def files_of(name: str) -> ContainerClient:
        store = as_user(name).datastores.get("workspaceblobstore", include_secrets=True)
        signature = store.credentials.sas_token
        return ContainerClient(f"https://{store.account_name}.blob.local", store.container_name, credential=signature)

    files, readers = files_of("cyril"), files_of("rita")
    files.upload_blob("mine.txt", b"habari")
    assert readers.download_blob("mine.txt").readall() == b"habari"
    assert "mine.txt" in [blob.name for blob in readers.list_blobs()]
    for refused in (lambda: readers.upload_blob("other.txt", b"x"), lambda: files.delete_blob("mine.txt")):
        with pytest.raises(HttpResponseError, match="signature isn't enough"):
            refused()
    written = [
        (e["user"], e["what"], e["status"]) for e in told(team) if e["ids"].get("name") in ("mine.txt", "other.txt")
    ]
    assert written == [("cyril", "write_blob", 201), ("rita", "write_blob", 403), ("cyril", "delete_blob", 403)]
    files_of("olga").delete_blob("mine.txt")
    stale = files_of("cyril")
    team.shell("user", "revoke", "cyril")
    with pytest.raises(HttpResponseError, match="no right signature"):
        list(stale.list_blobs())
    (team.folder / "cyril.token").unlink()
    team.shell("user", "rotate", "cyril", "--token-file", team.folder / "cyril.token")
    list(files_of("cyril").list_blobs())


def test_a_job_is_its_maker_s(as_user: Any, team: Team) -> None:
    client = as_user("cyril")
    environment = Environment(name="plain", image="mcr.microsoft.com/azureml/any", version="1")
    job = client.jobs.create_or_update(command(command="sleep 600", environment=environment, compute="local"))
    assert client.jobs.get(job.name).creation_context.created_by == "cyril"
    with pytest.raises(HttpResponseError, match="may not cancel job: it was made by cyril, and needs them or an owner"):
        as_user("carol").jobs.begin_cancel(job.name).wait()
    with pytest.raises(HttpResponseError, match="whose role is reader, may not put"):
        as_user("rita").jobs.create_or_update(command(command="true", environment=environment, compute="local"))
    assert re.search(r"by\W+cyril", team.shell("lineage", job.name))
    as_user("cyril").jobs.begin_cancel(job.name).wait()


def test_every_address_and_name_of_the_machine_leads_to_one_server(tmp_path: Path, folder: Path) -> None:
    """Also to its files, whose addresses the SDK makes from what it called the server by."""
    shell, ca_file = Shell(tmp_path / "home"), tmp_path / "ca.pem"
    shell("user", "create", "olga", "--role", "owner", "--token-file", tmp_path / "token")
    up = json.loads(shell("up", "--detach", "--json", "--listen", "0.0.0.0"))
    try:
        shell("env", "--write-ca", ca_file)
        hosts = [host for host in names_of("0.0.0.0") if ":" not in host and is_here(host)]
        assert len(hosts) > 1
        for host in hosts:
            access = access_of_user(up["azure"].replace("127.0.0.1", host), tmp_path / "token", ca_file)
            program = (
                "from azure.ai.ml import MLClient\nfrom azure.ai.ml.entities import Data\n"
                "from azure.identity import ManagedIdentityCredential\nimport sys\n"
                "client = MLClient(ManagedIdentityCredential(), *sys.argv[1:4])\n"
                "made = client.data.create_or_update(Data(name='d', path=sys.argv[4], type='uri_folder'))\n"
                "client.datastores.get('workspaceblobstore')\nprint(made.version, made.creation_context.created_by)\n"
            )
            environment = os.environ | azure_environment(access, os.environ)
            argv = [sys.executable, "-c", program, *workspace_config().values(), str(folder)]
            done = subprocess.run(argv, env=environment, capture_output=True, text=True)
            assert done.stdout.split()[1:] == ["olga"], done.stderr
    finally:
        shell("down")


def is_here(host: str) -> bool:
    """Return whether a name is known to this machine's resolver."""
    try:
        return bool(socket.getaddrinfo(host, 0, socket.AF_INET))
    except OSError:
        return False


def test_mlflow_opens_for_a_user_as_far_as_their_role_goes(as_user: Any) -> None:
    uri = as_user("rita").workspaces.get().mlflow_tracking_uri
    assert uri.startswith(f"https://{ADDRESS}:") and "@" not in uri
    client = mlflow.MlflowClient(uri)
    assert client.search_experiments()
    with pytest.raises(mlflow.MlflowException, match="needs the role contributor"):
        client.create_experiment("not this one")
    client = mlflow.MlflowClient(as_user("cyril").workspaces.get().mlflow_tracking_uri)
    made = client.create_experiment("this one")
    run = client.create_run(made, tags={"mlflow.user": "rita"})
    assert (run.info.user_id, run.data.tags["mlflow.user"]) == ("cyril", "cyril")
    client.log_text(run.info.run_id, "habari", "greeting.txt")
    with pytest.raises(mlflow.MlflowException, match="needs the role owner"):
        client.delete_experiment(made)


def test_a_revoked_user_is_refused_at_once_and_a_new_token_lets_them_in(as_user: Any, team: Team) -> None:
    client = as_user("rita")
    assert client.workspaces.get().name == "mafunzo"
    team.shell("user", "revoke", "rita")
    with pytest.raises(HttpResponseError, match="User rita was revoked"):
        client.workspaces.get()
    last = told(team, "--user", "rita")[-1]
    assert (last["what"], last["status"]) == ("get_workspace", 401)
    with pytest.raises(ClientAuthenticationError):
        as_user("rita").workspaces.get()
    (team.folder / "rita.token").unlink()
    team.shell("user", "rotate", "rita", "--token-file", team.folder / "rita.token")
    assert as_user("rita").workspaces.get().name == "mafunzo"
    with pytest.raises(HttpResponseError, match="replaced by a newer one"):
        client.workspaces.get()


def test_the_audit_log_says_who_did_what_and_tells_no_secret(team: Team, as_user: Any) -> None:
    asked = AmlCompute(name="audited", size="Standard_NC6")
    client = as_user("cyril")
    client.compute.begin_create_or_update(asked).result()
    client.datastores.get("workspaceblobstore", include_secrets=True)
    client = as_user("rita")
    for verb in (client.compute.begin_create_or_update, lambda _: client.compute.begin_delete("audited")):
        with pytest.raises(HttpResponseError, match="whose role is reader"):
            verb(asked).result()
    as_user("olga").compute.begin_delete("audited").wait()
    entries = told(team)
    about = [(e["user"], e["what"], e["status"]) for e in entries if e["ids"].get("name") == "audited"]
    assert about == [
        ("cyril", "put_compute", 201),
        ("rita", "put_compute", 403),
        ("rita", "delete_compute", 403),
        ("olga", "delete_compute", 200),
    ]
    secrets = {(e["user"], e["what"], e["status"]) for e in entries}
    assert {("cyril", "list_secrets", 200), ("cyril", "managed_identity", 200)} <= secrets
    made = next(e for e in entries if e["ids"].get("name") == "audited")
    assert (made["method"], made["role"], made["address"]) == ("PUT", "contributor", "127.0.0.1")
    assert made["ids"] == {"name": "audited"} and made["duration_ms"] > 0 and made["time"].startswith("20")
    assert {e["user"] for e in told(team, "--user", "olga")} == {"olga"}
    assert told(team, "--since", "2100-01-01") == [] and told(team, "--since", "1h") == entries
    assert "--since is 'tomorrow'" in team.shell("user", "log", "--since", "tomorrow", code=2)
    assert re.search(r"rita +reader +127\.0\.0\.1 +PUT +put_compute audited +403", team.shell("user", "log"))
    file = team.folder / "home" / "logs" / "audit.jsonl"
    text = file.read_text()
    assert not [token for token in team.folder.glob("*.token") if token.read_text().strip() in text]
    assert "sig=" not in text and "Bearer" not in text and "eyJ" not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_script_of_a_member_runs_with_their_token(team: Team, server: str, tmp_path: Path) -> None:
    """`mafunzo run --server` on a machine that has a home of its own, or none."""
    script = tmp_path / "script.py"
    script.write_text(
        "from azure.ai.ml import MLClient\nfrom azure.identity import DefaultAzureCredential\n"
        "client = MLClient.from_config(DefaultAzureCredential())\n"
        "print('found', client.workspaces.get().name, client.compute.get('local').name)\n"
    )
    theirs = Shell(tmp_path / "none")
    way = ["--server", server, "--token-file", team.folder / "carol.token", "--ca-file", team.ca_file]
    done = subprocess.run(
        [sys.executable, "-m", "mafunzo", "run", *map(str, way), str(script)],
        cwd=tmp_path, env=theirs.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert "found mafunzo local" in done.stdout, done.stderr
    assert not (tmp_path / "none").exists()
    assert json.loads(theirs("env", "--format", "json", *way))["REQUESTS_CA_BUNDLE"] == str(team.ca_file)
    assert "belong together" in theirs("env", *way[:4], code=2)
    assert "expected https://HOST:PORT" in theirs(
        "env", *["http://x" if word == server else word for word in way], code=2
    )


@pytest.mark.parametrize("verb", [["env"], ["run", "script.py"]], ids=" ".join)
def test_a_way_to_a_server_that_leads_nowhere_is_told_before_the_script_starts(
    team: Team, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text("print('it ran')")
    Path("wrong.token").write_text("no-token-of-this-server")
    Path("other.pem").write_text(Path(certifi.where()).read_text())
    token, http = team.folder / "carol.token", json.loads(team.shell("up", "--detach", "--json"))["openai"]
    with socket.create_server((ADDRESS, 0)) as free:
        nobody = f"https://{ADDRESS}:{free.getsockname()[1]}"
    http_port = f"{server.rpartition(':')[0]}:{http.removesuffix('/v1').rpartition(':')[2]}"

    def told(url: str, file: Path, authorities: Path, code: int) -> str:
        shell, words = Shell(tmp_path / "none"), ["--server", url, "--token-file", file, "--ca-file", authorities]
        ask = shell.process if verb[0] == "run" else shell
        return ask(verb[0], *words, *verb[1:], code=code)

    for words in (
        told(server, Path("wrong.token"), team.ca_file, code=3),
        told(nobody, token, team.ca_file, code=1),
        told(http_port, token, team.ca_file, code=1),
        told(server, token, Path("other.pem"), code=1),
    ):
        assert "Traceback" not in words and "it ran" not in words and "export" not in words
    assert f"isn't accepted by {server}" in told(server, Path("wrong.token"), team.ca_file, code=3)
    assert f"No Mafunzo answers at {nobody}: " in told(nobody, token, team.ca_file, code=1)
    assert "there is http, not https" in told(http_port, token, team.ca_file, code=1)
    assert "isn't trusted by" in told(server, token, Path("other.pem"), code=1)


def test_a_server_that_runs_does_not_pretend_to_listen_elsewhere(team: Team, server: str) -> None:
    with (
        Workspace(team.folder / "home", listen="127.0.0.3") as workspace,
        pytest.raises(Conflict, match="mafunzo down"),
    ):
        workspace.up()
    assert issubclass(Conflict, RefusedError)


def test_another_name_in_the_host_header_is_not_answered(team: Team, server: str) -> None:
    trusting = ssl.create_default_context(cafile=team.ca_file)
    for host in ("127.0.0.1", "evil.example"):
        answer = httpx.get(f"{server}/metadata/endpoints", headers={"Host": host}, verify=trusting, timeout=LIMIT_S)
        assert (answer.status_code, "Host header" in answer.text) == (421, True)
