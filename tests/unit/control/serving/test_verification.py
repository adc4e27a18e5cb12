"""Each way in which a worker can differ from the tuned model, and the name that it is given."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.serving.reference import Reference
from mafunzo.control.serving.verification import verify
from tests.support.fake_worker import reference
from tests.support.serving_bench import FAKE_WORKER
from tests.support.waiting import until

StartWorker = Callable[[dict[str, Any]], str]


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Start a fake that behaves as the settings say, and return its address."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(settings: dict[str, Any]) -> str:
        (tmp_path / "fake.json").write_text(json.dumps(settings))
        port_file = tmp_path / "port"
        argv = [sys.executable, str(FAKE_WORKER), "--model", str(tmp_path), "--name", "chat", "--port", "0"]
        processes.append(subprocess.Popen([*argv, "--port-file", str(port_file)], env=dict(os.environ)))
        until(port_file.exists)
        return f"http://127.0.0.1:{port_file.read_text()}"

    yield start
    for process in processes:
        process.kill()
        process.wait()


def good(**changes: Any) -> Reference:
    return Reference.model_validate(reference() | changes)


def test_a_worker_that_answers_as_the_tuned_model_did_has_no_faults(start_worker: StartWorker) -> None:
    verdict = verify(start_worker({}), good(), "merge")
    assert verdict.faults == ()
    assert verdict.record is not None
    assert verdict.record["result"] == "verified"
    assert (verdict.record["rows"], verdict.record["tolerance"]) == (2, 0.01)


def test_a_difference_within_the_tolerance_is_recorded_and_no_fault(start_worker: StartWorker) -> None:
    verdict = verify(start_worker({"shift": 0.009}), good(), "merge")
    assert verdict.faults == ()
    assert verdict.record is not None
    assert verdict.record["largest_difference"] == pytest.approx(0.009)


@pytest.mark.parametrize(
    ("settings", "begins", "contains"),
    [
        pytest.param(
            {"turn": "[{role}] {content}"},
            "template: row 0, conversation: the token ids differ from position 1 on: the worker has '[user",
            "evaluation had '<user",
            id="another template",
        ),
        pytest.param(
            {"turn": "<{role}>{content}!"},
            "template: row 0, conversation: the token ids differ from position 17 on",
            "Rows that differ so: 2 of 2.",
            id="a template that differs at the end of a turn",
        ),
        pytest.param(
            {"turn": "{nothing}"}, "template: row 0, conversation: the worker", "2 of 2", id="a template that breaks"
        ),
        pytest.param(
            {"bos": None}, "BOS: row 0, conversation: the worker leaves out the first token", "[1]", id="no BOS"
        ),
        pytest.param({"bos": 7}, "BOS: row 0, conversation: the first token is", "[7]", id="another BOS"),
        pytest.param(
            {"eos": 3}, "EOS: row 0, conversation: a turn ends with", "[3]", id="turns end with another token"
        ),
        pytest.param({"stop_token_ids": [3]}, "EOS: the worker stops at the tokens [3]", "[2]", id="stops elsewhere"),
        pytest.param({"stop_token_ids": []}, "EOS: the worker stops at the tokens []", "[2]", id="stops nowhere"),
        pytest.param(
            {"stop_token_ids": [2, ord("w")]},
            "EOS: the worker stops at 'w' (ids [119]) as well",
            "would cut them off",
            id="stops inside of answers",
        ),
        pytest.param(
            {"shift": 0.5},
            "adapter: row 0, position",
            "which is 0.5000 apart; they may differ by 0.01",
            id="other weights",
        ),
        pytest.param({"shift": float("nan")}, "adapter: row 0, position 1", "which is inf apart", id="not a number"),
    ],
)
def test_what_differs_is_named(start_worker: StartWorker, settings: dict[str, Any], begins: str, contains: str) -> None:
    verdict = verify(start_worker(settings), good(), "adapter")
    assert verdict.faults
    assert verdict.faults[0].startswith(begins), verdict.faults
    assert contains in verdict.faults[0], verdict.faults
    assert verdict.record is not None
    assert verdict.record["result"] == "refused"


def test_a_doubled_bos_is_named(start_worker: StartWorker) -> None:
    rows = reference({"bos": None})["rows"]
    verdict = verify(start_worker({}), good(rows=rows), "weights")
    assert verdict.faults[0].startswith("BOS: row 0, conversation: the worker puts"), verdict.faults


def test_several_differences_are_all_named_at_once(start_worker: StartWorker) -> None:
    verdict = verify(start_worker({"bos": None, "shift": 1.0, "stop_token_ids": [9]}), good(), "merge")
    assert [fault.split(":")[0] for fault in verdict.faults] == ["EOS", "BOS", "BOS", "merge"]


def test_a_worker_that_is_gone_breaks_the_comparison_instead_of_failing_it() -> None:
    verdict = verify("http://127.0.0.1:1", good(), "merge")
    assert verdict.faults == ()
    assert "ConnectError" in verdict.broke
