"""A worker's folder: its number, its port, and how its end reads."""

from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.control.launcher.local import ExitRecord
from mafunzo.control.serving.worker_folder import (
    KEPT_ATTEMPTS,
    describe_end,
    forget_old_attempts,
    is_final,
    last_log,
    next_attempt,
    read_port,
    worker_folder,
    worker_token,
)
from mafunzo.control.store.home import Home
from mafunzo.entities.endpoint import Deployment, DeploymentStatus

BLUE = Deployment("chat", "blue", "m:1", "sha256:0", attempt=2)
RECORD = ExitRecord(1, None, 7, 0.0, 0.0, 1.0, 512.0)


def made(home: Home, attempt: int, log: str = "") -> Path:
    folder = worker_folder(home, replace(BLUE, attempt=attempt))
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text(log)
    return folder


def test_a_number_is_never_used_twice(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert next_attempt(home, BLUE) == 3
    made(home, 9)
    (worker_folder(home, BLUE).parent / "notes").touch()
    assert next_attempt(home, BLUE) == 10


def test_the_newest_folders_stay(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folders = [made(home, attempt) for attempt in (1, 2, KEPT_ATTEMPTS + 1)]
    forget_old_attempts(home, replace(BLUE, attempt=KEPT_ATTEMPTS + 1))
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_the_newest_log_that_says_anything_is_shown(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert last_log(home, BLUE, 5) == []
    for attempt, log in ((2, "two"), (9, "nine"), (10, " \n")):
        made(home, attempt, log)
    assert last_log(home, BLUE, 5) == ["nine"]


@pytest.mark.parametrize(("text", "port"), [("8001\n", 8001), ("", None), (None, None)])
def test_a_port_is_known_once_it_is_written(text: str | None, port: int | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "port").write_text(text)
    assert read_port(tmp_path) == port


@pytest.mark.parametrize(
    ("record", "text"),
    [
        pytest.param(None, "it is gone without a record of its end", id="gone"),
        pytest.param(RECORD, "exit code 1; its last words were: the end", id="by itself"),
        pytest.param(replace(RECORD, signal=9), "killed by signal 9; its last words were: the end", id="killed"),
        pytest.param(
            replace(RECORD, signal=9, is_out_of_memory=True),
            "out of memory at 512 MB (killed by signal 9); its last words were: the end",
            id="out of memory",
        ),
    ],
)
def test_an_end_is_told_with_the_last_words(record: ExitRecord | None, text: str, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("loading\nthe end\n\n")
    assert describe_end(record, tmp_path) == text


def test_another_start_would_not_help_one_that_refused() -> None:
    records = [None, RECORD, replace(RECORD, exit_code=3), replace(RECORD, exit_code=137, signal=9)]
    assert [is_final(record) for record in records] == [False, False, True, False]


def test_a_server_that_adopts_a_worker_knows_its_token_and_each_attempt_has_its_own(tmp_path: Path) -> None:
    secret = Home(tmp_path).secret()
    token = worker_token(secret, BLUE)
    assert token == worker_token(Home(tmp_path).secret(), replace(BLUE, status=DeploymentStatus.HEALTHY, port=4711))
    others = [replace(BLUE, attempt=3), replace(BLUE, name="green"), replace(BLUE, endpoint="other")]
    assert token not in {worker_token(secret, other) for other in others}
    assert token != worker_token(b"another home's", BLUE)
