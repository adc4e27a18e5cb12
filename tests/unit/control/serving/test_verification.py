"""Each way in which a worker can differ from the tuned model, and the name that it is given."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from mafunzo.control.serving.decide import Verdict
from mafunzo.control.serving.reference import Reference
from mafunzo.control.serving.verification import verify, verify_folder
from tests.support.fake_worker import DEFAULTS, info, logprobs, reference, tokenize, tops
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


def asked(settings: dict[str, Any], against: Reference) -> Verdict:
    """Compare a fake that answers in this process."""
    behaviour = DEFAULTS | settings

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/info":
            return httpx.Response(200, json=info(behaviour))
        body = json.loads(request.content)
        if request.url.path == "/tokenize":
            ids = tokenize(behaviour, body["messages"], body["add_generation_prompt"])
            return httpx.Response(200, json={"tokens": ids})
        by_id = "return_tokens_as_token_ids" in body
        if by_id and not behaviour["knows_ids"]:
            return httpx.Response(400, json={"error": {"message": "unknown field"}})
        tokens = body["prompt"]
        logprobs_of = {
            "token_logprobs": logprobs(behaviour, tokens),
            "top_logprobs": tops(behaviour, tokens, by_id),
            "tokens": [f"<{token}>" for token in tokens],
        }
        return httpx.Response(200, json={"choices": [{"logprobs": logprobs_of}]})

    return verify("http://worker", against, "merge", httpx.Client(transport=httpx.MockTransport(answer)))


def compared(settings: dict[str, Any], against: Reference | None = None) -> Mapping[str, Any]:
    record = asked(settings, against or good()).record
    assert record is not None
    return record


def test_what_computed_it_and_how_greedy_decoding_agrees_are_recorded() -> None:
    record = compared({})
    assert (record["engine"], record["worker_dtype"], record["dtype"]) == ("fake", "float32", "float32")
    assert (record["stored"], record["rows"], record["exact_rows"]) == ("merge", 2, 2)
    assert record["greedy_positions"] == record["greedy_equal"] == 2 * len(b"answer\2")
    assert record["signed_mean_difference"] == 0
    assert "perplexity_ratio" not in record, "no precision was lowered"


def test_a_package_without_greedy_ids_is_proven_and_their_agreement_not_known() -> None:
    rows = [{name: value for name, value in row.items() if name != "greedy_ids"} for row in reference()["rows"]]
    record = compared({}, good(rows=rows))
    assert record["result"] == "verified"
    assert "greedy_equal" not in record


def test_a_worker_that_names_no_ids_is_proven_and_its_greedy_choices_not_known() -> None:
    record = compared({"knows_ids": False})
    assert (record["result"], record["largest_difference"]) == ("verified", 0)
    assert "greedy_equal" not in record


def test_a_token_that_is_just_ahead_is_counted_and_refuses_nothing() -> None:
    record = compared({"ahead": 0.019})
    assert (record["result"], record["greedy_equal"], record["greedy_positions"]) == ("verified", 0, 14)


def test_a_token_that_is_farther_ahead_than_the_tolerance_explains_is_a_fault() -> None:
    [fault] = asked({"ahead": 0.5}, good()).faults
    assert fault.startswith("merge: row 0, position")
    assert (
        "the worker's likeliest token is '<98>' (ids [98]), in evaluation '<97>' (ids [97]), and it is 0.5000" in fault
    )


def test_rows_whose_ids_differ_are_counted() -> None:
    record = compared({"bos": None})
    assert (record["result"], record["rows"], record["exact_rows"]) == ("refused", 2, 0)


def test_a_lower_precision_states_its_cost_and_is_held_to_what_it_explains() -> None:
    record = compared({"dtype": "bfloat16", "shift": -0.1})
    assert (record["result"], record["tolerance"], record["mean_tolerance"]) == ("verified", 1.5, 0.15)
    assert record["signed_mean_difference"] == pytest.approx(-0.1)
    assert record["perplexity_ratio"] == pytest.approx(math.exp(0.1))
    assert compared({"dtype": "bfloat16", "shift": -0.2})["result"] == "refused"


def test_a_model_without_a_reference_is_unverified_and_tells_what_computes_it(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    record = verify_folder(tmp_path / "model", start_worker({}), {}).record
    assert record is not None
    assert (record["result"], record["engine"], record["worker_dtype"]) == ("unverified", "fake", "float32")
    assert record["stored"] == "weights"
    assert "ConnectError" in verify_folder(tmp_path / "model", "http://127.0.0.1:1", {}).broke
