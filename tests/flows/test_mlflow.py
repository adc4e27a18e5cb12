"""Stock MLflow's client against a real server: a job's metrics are there, for the operator's key only."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from mafunzo.entrypoints.http.auth import operator_key
from tests.support.finished_job import add_finished_job
from tests.support.process import lives
from tests.support.served import Served
from tests.support.waiting import LIMIT_S, http


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on a home that has one finished job."""
    root = tmp_path_factory.mktemp("mlflow")
    made = Served(root)
    add_finished_job(made.home)
    made.start()
    yield made
    made.stop()


def test_a_jobs_metrics_are_read_with_stock_mlflow(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", operator_key(served.home))
    client = MlflowClient(tracking_uri=f"{served.address.url}/mlflow")
    experiment = client.get_experiment_by_name("chat")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    job, step = runs["tiny on chitchat"], runs["finetune"]
    assert [point.value for point in client.get_metric_history(step.info.run_id, "loss")] == [2.9, 2.8, 2.7]
    assert step.data.tags["mlflow.parentRunId"] == job.info.run_id
    assert step.data.params == {"learning_rate": "0.0002", "train_file_path": "train.jsonl"}
    assert (job.data.tags["mafunzo.job"], job.data.tags["team"]) == ("job1", "one")
    assert job.info.status == step.info.status == "FINISHED"


def test_without_the_operators_key_nothing_is_told(served: Served) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp3cm9uZw=="}):
        assert http.get(f"{served.address.url}/mlflow/", headers=headers).status_code == 401


def test_who_sends_no_key_is_told_how_to_get_one(served: Served) -> None:
    told = http.get(f"{served.address.url}/mlflow/api/2.0/mlflow/experiments/search").text
    assert told.startswith("The request has no key and no token.") and "wasn't given by this server" not in told
    assert "`mafunzo mlflow` prints" in told and "mafunzo user create NAME" in told and "MLFLOW_TRACKING_TOKEN" in told


def test_a_browser_that_sends_the_key_as_its_password_gets_the_pages(served: Served) -> None:
    key = operator_key(served.home)
    page = http.get(f"{served.address.url}/mlflow", auth=("operator", key), follow_redirects=True)
    assert "<!doctype html" in page.text[:100].lower()
    assert http.get(f"{served.address.url}/mlflow/health", auth=("operator", key)).text == "OK"


def test_a_browser_is_led_to_an_address_without_the_key_and_let_in_there(served: Served) -> None:
    url, asks_for_a_page = f"{served.address.url}/mlflow/", {"Accept": "text/html,*/*"}
    with httpx.Client(headers=asks_for_a_page, timeout=LIMIT_S) as browser:
        first = browser.get(url, auth=("mafunzo", operator_key(served.home)))
        assert (first.status_code, first.headers["location"]) == (303, f"{url}?in")
        again = browser.get(url, auth=("mafunzo", operator_key(served.home)), follow_redirects=True)
        assert again.status_code == 200
        cookie = first.headers["set-cookie"]
        assert operator_key(served.home) not in cookie
        assert all(part in cookie for part in ("HttpOnly", "SameSite=lax", "Path=/mlflow"))
        assert "<!doctype html" in browser.get(url).text[:100].lower()
        found = browser.post(f"{url}ajax-api/2.0/mlflow/runs/search", json={"experiment_ids": ["1"]})
        assert {run["info"]["run_id"] for run in found.json()["runs"]} >= {"job1"}
        browser.cookies.set(cookie.partition("=")[0], "wrong")
        assert browser.get(url).status_code == 401


def test_the_command_prints_what_clients_need(served: Served) -> None:
    environment = {**os.environ, "MAFUNZO_HOME": str(served.home.root)}
    argv = [sys.executable, "-m", "mafunzo", "mlflow"]
    printed = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout
    assert MlflowClient(tracking_uri=printed.strip()).get_run("job1").info.run_name == "tiny on chitchat"
    told = json.loads(subprocess.run([*argv, "--json"], env=environment, check=True, capture_output=True).stdout)
    assert told == {"uri": f"{served.address.url}/mlflow", "key": operator_key(served.home)}


def test_a_shells_variables_keep_the_key_out_of_the_address(served: Served, tmp_path: Path) -> None:
    environment = {**os.environ, "MAFUNZO_HOME": str(served.home.root)}
    program = tmp_path / "program.py"
    program.write_text("import mlflow\nwith mlflow.start_run(): mlflow.log_metric('loss', 1)\n")
    ask = f"{sys.executable} -m mafunzo mlflow --format shell"
    command = ["sh", "-c", f'variables="$({ask})" && eval "$variables" && exec {sys.executable} {program}']
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "View run " in done.stdout and served.address.url in done.stdout
    assert operator_key(served.home) not in done.stdout + done.stderr


def test_what_of_mlflow_runs_programs_or_asks_other_servers_is_off(served: Served) -> None:
    auth = ("mafunzo", operator_key(served.home))
    for path in ("ajax-api/3.0/mlflow/assistant/config", "gateway/x/mlflow/invocations", "ajax-api/3.0/jobs/1"):
        answer = http.get(f"{served.address.url}/mlflow/{path}", auth=auth)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")


def test_mlflows_own_port_is_closed_to_who_has_no_token(served: Served) -> None:
    key = operator_key(served.home)
    http.get(f"{served.address.url}/mlflow/health", auth=("operator", key))
    port = (served.home.root / "mlflow" / "port").read_text()
    assert http.get(f"http://127.0.0.1:{port}/health").status_code == 401
    assert oct((served.home.root / "mlflow" / "token").stat().st_mode)[-3:] == "600"


def test_mlflow_ends_with_the_server(tmp_path: Path) -> None:
    own = Served(tmp_path)
    own.start()
    try:
        auth = ("operator", operator_key(own.home))
        assert http.get(f"{own.address.url}/mlflow/health", auth=auth).text == "OK"
        port = int((own.home.root / "mlflow" / "port").read_text())
        child = next(c.pid for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN")
    finally:
        own.stop()
    assert not lives(child)
