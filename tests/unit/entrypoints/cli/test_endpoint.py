"""Tests of `mafunzo deploy` and `mafunzo endpoint` over a home with an endpoint whose workers don't run."""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.serving import mirror_log
from mafunzo.control.workspace.deployments import Deployments
from mafunzo.control.workspace.endpoints import EndpointHandle
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Rollout, ServedModel, Supervision
from mafunzo.entities.rate_limit import DayUsage, RateLimit
from mafunzo.entities.scale import Scale
from mafunzo.entities.verification import Proof, ProofResult
from mafunzo.entrypoints.http.auth import endpoints_key
from mafunzo.entrypoints.terminal.output import moment_text
from tests.support.command_line import Shell
from tests.unit.entities.test_mirror import comparison

AT = datetime(2026, 1, 2, 10, tzinfo=UTC)
PROOF = {"result": "verified", "rows": 3, "tokens": 40, "details": [1, 2]}


@pytest.fixture
def endpoint(workspace: Workspace, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint `chat`: its deployment blue is healthy and has the traffic, green has failed."""
    workspace.endpoints.create("chat")
    blue = Deployment("chat", "blue", "m:1", "sha256:0", DeploymentStatus.HEALTHY, port=9001, verification=PROOF)
    error = {"code": "worker_failed", "message": "It was too slow.", "faults": ["a: 1"]}
    green = Deployment("chat", "green", "m:2", "sha256:1", DeploymentStatus.FAILED, error=error)
    for deployment in (blue, green):
        workspace.records.deployments.add(deployment)
    workspace.records.endpoints.update(replace(workspace.records.endpoints.get("chat"), traffic_percent={"blue": 100}))
    monkeypatch.setattr(EndpointHandle, "url", "http://127.0.0.1:8080/v1")
    return "chat"


def test_endpoints_are_listed_with_their_deployments(shell: Shell, endpoint: str, workspace: Workspace) -> None:
    workspace.endpoints.create("empty")
    blue = workspace.deployments.get("chat", "blue")
    workspace.records.deployments.update(replace(blue, expires_at=AT + timedelta(hours=4)))
    assert blue.created_at is not None
    since, ends = moment_text(blue.created_at).split(), moment_text(AT + timedelta(hours=4)).split()
    header, *rows = [line.split() for line in shell("endpoint", "list").splitlines()]
    assert header == ["endpoint", "deployment", "model", "status", "traffic", "since", "ends"]
    assert [row[:6] for row in rows] == [
        ["chat", "blue", "m:1", "healthy", "100", "%"],
        ["chat", "green", "m:2", "failed", "0", "%"],
        ["empty", "none"],
    ]
    assert (rows[0][6:], len(rows[1][6:])) == ([*since, *ends], 2)
    body = json.loads(shell("endpoint", "list", "--json"))
    assert [one["name"] for one in body] == ["chat", "empty"]
    assert body[0]["deployments"][0]["expires_at"] == (AT + timedelta(hours=4)).isoformat()


def test_without_endpoints_the_list_says_how_to_make_one(shell: Shell) -> None:
    assert shell("endpoint", "list") == "No endpoints. Make one: mafunzo deploy\n"
    assert json.loads(shell("endpoint", "list", "--json")) == []


def test_an_endpoint_is_shown_with_the_proof_of_each_deployment(shell: Shell, endpoint: str) -> None:
    lines = shell("endpoint", "show", endpoint).splitlines()
    words = [line.split() for line in lines]
    assert ["traffic", "blue=100"] in words
    assert ["port", "9001"] in words
    assert ["error", "It", "was", "too", "slow."] in words
    assert ["blue", "none", "verified", "not", "known", "not", "known", "3", "not", "known", "not", "known"] in words
    assert lines[-1] == "green: It was too slow. a: 1"


def test_in_json_a_deployments_inner_facts_are_its_properties(shell: Shell, endpoint: str) -> None:
    body = json.loads(shell("endpoint", "show", endpoint, "--json"))
    assert body["endpoint"]["traffic_percent"] == {"blue": 100}
    blue, green = body["deployments"]
    assert (blue["name"], blue["verification"], green["error"]["message"]) == ("blue", PROOF, "It was too slow.")
    assert [(one["worker"], one["result"]) for one in body["proofs"]] == [("blue", "verified"), ("green", "failed")]
    assert set(blue["properties"]) == {"base_artifact", "supervision"}
    assert "supervision" not in blue


def test_keys_are_printed_and_replaced_one_by_one(shell: Shell, endpoint: str, workspace: Workspace) -> None:
    before = workspace.endpoints.get(endpoint).keys
    facts = dict(line.split() for line in shell("endpoint", "keys", endpoint).splitlines())
    assert facts == {"primary": before[0], "secondary": before[1], "url": "http://127.0.0.1:8080/v1"}
    body = json.loads(shell("endpoint", "keys", endpoint, "--regenerate", "secondary", "--json"))
    assert body["primary"] == before[0]
    assert body["secondary"] != before[1]
    told = shell("endpoint", "keys", endpoint, "--regenerate", "third", code=2)
    assert told == "error: 'third' isn't a key, expected primary or secondary.\n"


def test_without_a_name_the_key_of_all_endpoints_is_printed_and_replaced(
    shell: Shell, endpoint: str, workspace: Workspace
) -> None:
    body = json.loads(shell("endpoint", "keys", "--json"))
    assert body == {"key": endpoints_key(workspace.home), "url": "http://127.0.0.1:8080/v1"}
    assert f"all endpoints  {body['key']}" in shell("endpoint", "keys")
    new = json.loads(shell("endpoint", "keys", "--regenerate", "all", "--json"))["key"]
    assert (new != body["key"], endpoints_key(workspace.home)) == (True, new)
    assert "name the endpoint whose key that is" in shell("endpoint", "keys", "--regenerate", "primary", code=2)


def test_traffic_is_set(shell: Shell, endpoint: str, workspace: Workspace) -> None:
    workspace.endpoints.get(endpoint).set_traffic({})
    assert shell("endpoint", "traffic", endpoint, "blue=100") == "traffic  blue=100\n"
    body = json.loads(shell("endpoint", "traffic", endpoint, "blue=100", "green=0", "--json"))
    assert body == {"endpoint": "chat", "traffic_percent": {"blue": 100}}


@pytest.mark.parametrize(
    ("shares", "code", "text"),
    [
        pytest.param(
            ["blue", "green=x"], 2, "  - 'blue' isn't deployment=percent.\n  - 'green=x' isn't", id="no shares"
        ),
        pytest.param(
            ["blue=0", "green=0"], 2, "  - Nobody would answer. Give a deployment its share", id="no share at all"
        ),
        pytest.param(["blue=100", "blue=0"], 2, "  - 'blue' stands 2 times, expected once.", id="one twice"),
        pytest.param(["blue=50", "blue=50"], 2, "  - 'blue' stands 2 times, expected once.", id="the same twice"),
        pytest.param(
            ["blue=33.3", "=5", "green=\u00b2"],
            2,
            "  - 'blue=33.3' isn't deployment=percent.\n  - '=5' isn't deployment=percent.\n  - 'green=\u00b2' isn't",
            id="no whole numbers",
        ),
        pytest.param(["blue=50"], 2, "The shares add up to 50, expected 100 (or 0).", id="not 100"),
        pytest.param(["blue=50", "red=50"], 2, "Endpoint chat has no deployment 'red'.", id="unknown deployment"),
        pytest.param(["blue=50", "green=50"], 3, "The traffic of chat can't be set.", id="to one that can't answer"),
    ],
)
def test_traffic_that_cannot_be_is_refused(
    shares: list[str], code: int, text: str, shell: Shell, endpoint: str, workspace: Workspace
) -> None:
    assert text in shell("endpoint", "traffic", endpoint, *shares, code=code)
    assert workspace.endpoints.get(endpoint).endpoint.traffic_percent == {"blue": 100}


def test_logs_are_printed_by_deployment_with_why_one_failed(shell: Shell, endpoint: str) -> None:
    told = shell("endpoint", "logs", endpoint)
    assert "--- blue\n" in told
    assert "--- green\nThe deployment is failed: It was too slow.\na: 1\n" in told
    assert shell("endpoint", "logs", endpoint, "--deployment", "green", "--lines", "1") == "--- green\na: 1\n"
    assert list(json.loads(shell("endpoint", "logs", endpoint, "--json"))) == ["blue", "green"]


def proven(endpoint: str, monkeypatch: pytest.MonkeyPatch, result: ProofResult, why: str = "") -> None:
    """Have each verification of the endpoint end with one row."""
    proof = Proof("blue", "blue", "red", "red:1", result, why, rows=3, exact_rows=3)
    monkeypatch.setattr(EndpointHandle, "verify", lambda handle, deployment: [replace(proof, model=str(deployment))])


def test_a_proof_is_made_again(shell: Shell, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proven(endpoint, monkeypatch, ProofResult.VERIFIED)
    header, row = shell("endpoint", "verify", endpoint).splitlines()
    assert header.split()[:5] == ["worker", "adapter", "result", "weights", "engine"]
    assert row.split()[:3] == ["blue", "red", "verified"]
    [told] = json.loads(shell("endpoint", "verify", endpoint, "--deployment", "green", "--json"))
    assert (told["adapter"], told["model"], told["result"], told["has_passed"]) == ("red", "green", "verified", True)


def test_a_model_that_has_nothing_to_be_held_against_is_no_failure(
    shell: Shell, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(endpoint, monkeypatch, ProofResult.UNVERIFIED, "It wasn't tuned here.")
    assert shell("endpoint", "verify", endpoint).splitlines()[-1] == "blue, adapter red: It wasn't tuned here."


@pytest.mark.parametrize("result", [ProofResult.REFUSED, ProofResult.FAILED])
def test_the_exit_code_says_that_not_all_have_passed(
    shell: Shell, endpoint: str, monkeypatch: pytest.MonkeyPatch, result: ProofResult
) -> None:
    proven(endpoint, monkeypatch, result, "BOS: it is left out.")
    told = shell("endpoint", "verify", endpoint, code=1)
    assert told.splitlines()[-1] == "blue, adapter red: BOS: it is left out."
    assert json.loads(shell("endpoint", "verify", endpoint, "--json", code=1))[0]["why"] == "BOS: it is left out."


def test_a_lower_precision_is_deployed_with_its_cost(
    shell: Shell, endpoint: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = PROOF | {"worker_dtype": "bfloat16", "dtype": "float32", "perplexity_ratio": 1.0213}
    blue = workspace.deployments.get("chat", "blue")
    workspace.records.deployments.update(replace(blue, verification=proof))
    monkeypatch.setattr(Workspace, "deploy", lambda self, model, **options: self.endpoints.get("chat"))
    told = shell("deploy", "m:1", "--endpoint", "chat", "--deployment", "blue").splitlines()
    assert "It computes in bfloat16: perplexity +2.13% against float32, on the held-out conversations." in told


def test_a_request_is_sent_as_it_is(
    shell: Shell, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[Any, str | None]] = []

    def invoke(_: EndpointHandle, body: Any, deployment: str | None = None) -> dict[str, Any]:
        requests.append((body, deployment))
        return {"choices": []}

    monkeypatch.setattr(EndpointHandle, "invoke", invoke)
    (file := tmp_path / "request.json").write_text('{"messages": []}')
    told = shell("endpoint", "invoke", endpoint, "--request-file", file, "--deployment", "blue")
    assert json.loads(told) == {"choices": []}
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"messages": [1]}'))
    shell("endpoint", "invoke", endpoint, "--request-file", "-")
    assert requests == [({"messages": []}, "blue"), ({"messages": [1]}, None)]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        pytest.param(None, "request.json can't be read: No such file or directory.", id="missing"),
        pytest.param("{", "request.json isn't JSON: ", id="no JSON"),
        pytest.param("[1]", "request.json holds list, expected a JSON object with messages.", id="no object"),
    ],
)
def test_a_file_that_is_no_request_is_refused(
    text: str | None, refusal: str, shell: Shell, endpoint: str, tmp_path: Path
) -> None:
    file = tmp_path / "request.json"
    if text is not None:
        file.write_text(text)
    assert refusal in shell("endpoint", "invoke", endpoint, "--request-file", file, code=2)


@pytest.fixture
def conversations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[dict[str, str]], dict[str, Any]]]:
    """What the endpoint was asked; it answers each time in two pieces."""
    asked: list[tuple[list[dict[str, str]], dict[str, Any]]] = []

    def stream(_: EndpointHandle, messages: Any, deployment: str | None = None, **parameters: Any) -> Iterator[str]:
        asked.append(([dict(message) for message in messages], {"deployment": deployment, **parameters}))
        yield from ("Nzu", "ri!")

    monkeypatch.setattr(EndpointHandle, "stream", stream)
    return asked


def test_one_message_is_asked_and_its_answer_printed(shell: Shell, endpoint: str, conversations: list[Any]) -> None:
    told = shell(
        "endpoint",
        "chat",
        endpoint,
        "-m",
        "Habari?",
        "--system",
        "Be brief.",
        "--temperature",
        "0.5",
        "--max-tokens",
        "9",
    )
    assert told == "Nzuri!\n"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Habari?"}]
    assert conversations == [(messages, {"deployment": None, "temperature": 0.5, "max_tokens": 9})]


def test_a_conversation_keeps_what_was_said_and_ends_with_its_input(
    shell: Shell, endpoint: str, conversations: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert shell("endpoint", "chat", endpoint) == "> Nzuri!\n> Nzuri!\n> "
    assert [[message["content"] for message in messages] for messages, _ in conversations] == [
        ["one"],
        ["one", "Nzuri!", "two"],
    ]


def test_an_endpoint_or_one_deployment_of_it_is_deleted(
    shell: Shell, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str | None] = []
    monkeypatch.setattr(EndpointHandle, "delete", lambda handle: deleted.append(None))
    monkeypatch.setattr(EndpointHandle, "delete_deployment", lambda handle, name: deleted.append(name))
    assert shell("endpoint", "delete", endpoint, "--deployment", "green") == "Deleted chat/green\n"
    assert shell("endpoint", "delete", endpoint) == "Deleted chat\n"
    body = json.loads(shell("endpoint", "delete", endpoint, "--deployment", "blue", "--json"))
    assert body == {"deleted": {"endpoint": "chat", "deployment": "blue"}}
    assert deleted == ["green", None, "blue"]


@pytest.mark.parametrize(
    "words", [["show"], ["keys"], ["traffic", "a=100"], ["logs"], ["verify"], ["delete"], ["chat"]]
)
def test_an_unknown_endpoint_is_refused_with_near_names(words: list[str], shell: Shell, endpoint: str) -> None:
    told = shell("endpoint", words[0], "chatt", *words[1:], code=2)
    assert told == "error: No endpoint 'chatt'. Did you mean chat?\n"


def test_a_model_is_deployed_as_the_options_say(
    shell: Shell, endpoint: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def deploy(self: Workspace, model: str, **options: Any) -> EndpointHandle:
        calls.append((model, options))
        return self.endpoints.get("chat")

    monkeypatch.setattr(Workspace, "deploy", deploy)
    told = shell("deploy", "m:1", "--endpoint", "chat", "--deployment", "blue", "--traffic", "30", "--timeout", "5")
    assert told.splitlines() == [
        "chat/blue serves m:1 at http://127.0.0.1:8080/v1 (model name: chat)",
        "  result verified, rows 3, tokens 40",
        "Its key: mafunzo endpoint keys chat. Talk to it: mafunzo endpoint chat chat",
    ]
    body = json.loads(shell("deploy", "m", "--endpoint", "chat", "--deployment", "green", "--json"))
    assert (body["deployment"]["name"], body["url"]) == ("green", "http://127.0.0.1:8080/v1")
    assert calls == [
        ("m:1", {"endpoint": "chat", "deployment": "blue", "traffic": 30, "timeout_s": 5.0}),
        ("m", {"endpoint": "chat", "deployment": "green", "traffic": None, "timeout_s": 600.0}),
    ]


def test_a_model_that_is_not_registered_is_not_deployed(shell: Shell, workspace: Workspace, starts: list[Path]) -> None:
    assert "'tuned'" in shell("deploy", "tuned", "--endpoint", "chat", code=2)
    assert workspace.endpoints.list() == []
    assert starts == []


def test_a_request_s_limit_reaches_the_deployment(
    shell: Shell, endpoint: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[Any] = []

    def deploy(self: Workspace, model: str, **options: Any) -> EndpointHandle:
        limits.append(options.get("request_timeout_s"))
        return self.endpoints.get("chat")

    monkeypatch.setattr(Workspace, "deploy", deploy)
    deploy_it = ("deploy", "m:1", "--endpoint", "chat", "--deployment", "blue")
    shell(*deploy_it)
    shell(*deploy_it, "--request-timeout", "300")
    assert limits == [None, 300.0]
    assert "request timeout  90 s" in shell("endpoint", "show", endpoint)


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        pytest.param([], None, id="nothing said"),
        pytest.param(["--instances", "3"], Scale(3, 3), id="a number"),
        pytest.param(["--scale", "0:3", "--idle-minutes", "1.5"], Scale(0, 3, idle_s=90), id="by load"),
        pytest.param(["--scale", "1:2"], Scale(1, 2), id="by load with the default idle time"),
    ],
)
def test_a_model_is_deployed_with_so_many_workers(
    options: list[str], scale: Scale | None, shell: Shell, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def deploy(workspace: Workspace, model: str, **more: Any) -> EndpointHandle:
        calls.append(more)
        return workspace.endpoints.get("chat")

    monkeypatch.setattr(Workspace, "deploy", deploy)
    shell("deploy", "m", "--endpoint", "chat", "--deployment", "blue", *options)
    assert calls[0].get("scale") == scale


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(["--scale", "3"], "'3' isn't a scale, expected MIN:MAX such as 0:3.", id="one bound"),
        pytest.param(["--scale", "0:2", "--instances", "2"], "--instances and --scale exclude each other", id="both"),
        pytest.param(["--instances", "2", "--idle-minutes", "1"], "--idle-minutes needs --scale", id="idle alone"),
        pytest.param(["--instances", "0"], "max_instances is 0, expected 1 to 64.", id="none"),
        pytest.param([], "Say how many workers: --instances N, or --scale MIN:MAX.", id="nothing"),
    ],
)
def test_a_number_of_workers_that_can_not_be_is_refused(
    options: list[str], told: str, shell: Shell, endpoint: str
) -> None:
    assert told in shell("endpoint", "scale", endpoint, "--deployment", "blue", *options, code=2)


def test_workers_are_shown_each_with_its_state(
    shell: Shell, endpoint: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workspace, "up", lambda workspace: None)
    monkeypatch.setattr(Deployments, "_require_room", lambda *_: None)  # its model has no files
    assert shell("endpoint", "scale", endpoint, "--deployment", "blue", "--scale", "1:2") == (
        "instances  1 to 2 by load, idle 5 minutes\n"
    )
    blue = workspace.deployments.get(endpoint, "blue")
    waiting = Supervision(reason="It needs 700 MB, which others hold.")
    second = replace(blue, number=1, port=None, status=DeploymentStatus.WAITING, supervision=waiting)
    workspace.records.deployments.update(blue.with_worker(second))
    lines = [" ".join(line.split()) for line in shell("endpoint", "show", endpoint).splitlines()]
    assert "blue healthy, port 9001" in lines
    assert "blue#2 waiting: It needs 700 MB, which others hold." in lines
    shown = json.loads(shell("endpoint", "show", endpoint, "--json"))["deployments"][0]
    assert [(worker["worker"], worker["status"]) for worker in shown["workers"]] == [
        ("blue", "healthy"),
        ("blue#2", "waiting"),
    ]
    assert shown["scale"]["max_instances"] == 2


def test_a_lease_is_renewed(shell: Shell, endpoint: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workspace, "up", lambda workspace: None)
    told = shell("endpoint", "renew", endpoint, "--deployment", "blue", "--ttl", "2d")
    expires_at = workspace.deployments.get(endpoint, "blue").expires_at
    assert expires_at is not None
    assert told == f"chat/blue is deleted at {moment_text(expires_at)}\n"
    assert f"ends             {moment_text(expires_at)}" in shell("endpoint", "show", endpoint)
    body = json.loads(shell("endpoint", "renew", endpoint, "--json"))
    assert [one["deployment"] for one in body] == ["blue"]
    assert shell("endpoint", "renew", endpoint, "--ttl", "never") == (
        "chat/blue stays until it is deleted\nchat/green stays until it is deleted\n"
    )
    assert "has no lease to renew" in shell("endpoint", "renew", endpoint, code=2)


def test_prompts_and_answers_are_kept_only_where_somebody_asks_for_it(shell: Shell, endpoint: str) -> None:
    words = ["endpoint", "log-requests", endpoint, "--deployment", "blue"]
    assert "request log" not in shell("endpoint", "show", endpoint)
    assert shell(*words) == "request log  on\n"
    assert shell("endpoint", "show", endpoint).count("prompts and answers are kept") == 1
    assert json.loads(shell(*words, "--off", "--json"))["logs_requests"] is False
    assert "request log" not in shell("endpoint", "show", endpoint)


def test_quotas_are_set_and_what_was_used_today_is_shown(shell: Shell, endpoint: str, workspace: Workspace) -> None:
    quota = ["--requests-per-day", "500", "--tokens-per-day", "9000"]
    told = "60 requests a minute, 500 requests and 9000 tokens a day"
    assert shell("endpoint", "limit", endpoint, "--requests-per-minute", "60", *quota) == f"default  {told}\n"
    today = datetime.now(UTC).date().isoformat()
    usages = [DayUsage(endpoint, "primary", today, 3, 120), DayUsage("other", "primary", today, 9)]
    usages.append(DayUsage(endpoint, "primary", "2020-01-01", 7))
    (workspace.home.root / "quotas.json").write_text(json.dumps([asdict(usage) for usage in usages]))
    assert "used today by primary  3 requests, 120 tokens" in shell("endpoint", "limit", endpoint)
    assert "used today by primary  3 requests, 120 tokens" in shell("endpoint", "show", endpoint)
    assert json.loads(shell("endpoint", "show", endpoint, "--json"))["used_today"] == [asdict(usages[0])]


def test_limits_are_set_shown_and_taken_away(shell: Shell, endpoint: str, workspace: Workspace) -> None:
    assert shell("endpoint", "limit", endpoint) == "limits  none\n"
    assert shell("endpoint", "limit", endpoint, "--requests-per-minute", "60") == "default  60 requests a minute\n"
    shell("endpoint", "limit", endpoint, "--tokens-per-minute", "1000", "--for", "user:amina")
    limits = {"default": RateLimit(60), "user:amina": RateLimit(None, 1000)}
    assert workspace.endpoints.get(endpoint).endpoint.rate_limits == limits
    assert "limit of user:amina  1000 tokens a minute" in shell("endpoint", "show", endpoint)
    shell("endpoint", "traffic", endpoint, "blue=100")
    body = json.loads(shell("endpoint", "limit", endpoint, "--for", "user:amina", "--remove", "--json"))
    per_day = {"requests_per_day": None, "tokens_per_day": None}
    assert body == {"default": {"requests_per_minute": 60, "tokens_per_minute": None, **per_day}}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(["--requests-per-minute", "0"], "requests_per_minute is 0, expected 1 to", id="none"),
        pytest.param(["--tokens-per-minute", "5", "--for", "third"], "'third' isn't a caller", id="nobody"),
        pytest.param(["--requests-per-minute", "5", "--remove"], "--remove takes a limit away", id="both"),
        pytest.param(["--for", "primary"], "Say how much", id="nothing"),
        pytest.param(["--for", "primary", "--remove"], "has no limit of 'primary'", id="nothing to take away"),
    ],
)
def test_a_limit_that_can_not_be_is_refused(options: list[str], told: str, shell: Shell, endpoint: str) -> None:
    assert told in shell("endpoint", "limit", endpoint, *options, code=2)


def test_a_mirror_is_set_and_its_report_printed(shell: Shell, endpoint: str, workspace: Workspace) -> None:
    assert "has no mirror" in shell("endpoint", "mirror", endpoint, code=2)
    assert "'green' isn't deployment=percent." in shell("endpoint", "mirror", endpoint, "green", code=2)
    assert shell("endpoint", "mirror", endpoint, "green=10") == "mirror  green=10\n"
    mirror_log.append(workspace.home, endpoint, comparison(live_s=0.5, mirror_s=0.25))
    mirror_log.append(workspace.home, endpoint, comparison(is_equal=False, is_sampled=True))
    lines = [" ".join(line.split()) for line in shell("endpoint", "mirror", endpoint).splitlines()]
    assert lines[:5] == ["mirror green", "compared 2", "equal 1", "different 1, of them 1 sampled", "failed 0"]
    assert "seconds, median 0.750 live, 1.125 mirror" in lines
    assert json.loads(shell("endpoint", "mirror", endpoint, "--json"))["equal"] == 1
    assert ["mirror", "green=10"] in [line.split() for line in shell("endpoint", "show", endpoint).splitlines()]
    assert shell("endpoint", "mirror", endpoint, "green=0") == "mirror  none\n"


def test_an_update_is_made_and_shown(
    shell: Shell, endpoint: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue = workspace.deployments.get(endpoint, "blue")
    calls: list[tuple[Any, ...]] = []

    def update(deployments: Deployments, *arguments: Any) -> Deployment:
        calls.append(arguments)
        return replace(blue, model="m:2")

    monkeypatch.setattr(Deployments, "update", update)
    told = shell("endpoint", "update", endpoint, "m:2", "--deployment", "blue", "--timeout", "5")
    assert told == "chat/blue serves m:2\n  result verified, rows 3, tokens 40\n"
    assert calls == [(endpoint, "blue", "m:2", 5.0)]
    rollout = Rollout(ServedModel("m:2", "sha256:2"), blue.served)
    for error, text in ((None, "from m:1 to m:2, going on"), ({"message": "No."}, "to m:2 was taken back: No.")):
        workspace.records.deployments.update(replace(blue, rollout=replace(rollout, error=error)))
        assert text in shell("endpoint", "show", endpoint)
