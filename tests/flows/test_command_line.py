"""The command line as a newcomer meets it: exit codes, and what it says when the input is bad; once each as a real process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Shell
from tests.support.waiting import LIMIT_S, until

CONVERSATIONS = Path(__file__).parent.parent.parent / "examples" / "conversations.jsonl"
COMMANDS = [
    "demo up down env create finetune estimate compare deploy lineage backup restore",
    "model list|model show|model import|model register|model download|model mirror|model archive|model delete",
    "data list|data get|data check|data preview|data split|data mirror",
    "job list|job show|job stream|job logs|job metrics|job cancel|job download|job delete",
    "endpoint list|endpoint show|endpoint invoke|endpoint chat|endpoint keys|endpoint traffic|endpoint logs",
    "endpoint verify|endpoint delete|compute list|compute create|compute show|compute delete|compute sizes",
    "component list|component show|component archive",
    "user create|user list|user show|user rotate|user revoke|user delete|user log",
    "environment list|environment show|environment archive|environment delete",
]
ALL_COMMANDS = [command for line in COMMANDS for command in (line.split("|") if "|" in line else line.split())]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("home"))
    yield shell
    shell("down")


def rows(count: int) -> list[str]:
    messages = [{"role": "user", "content": "Habari?"}, {"role": "assistant", "content": "Nzuri!"}]
    return [json.dumps({"messages": messages, "id": number}) for number in range(count)]


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_every_command_has_help_that_teaches(command, shell):
    told = shell(*command.split(), "--help")
    assert "Usage:" in told
    assert len(told.splitlines()) > 8


def test_an_unknown_command_is_a_usage_error(shell):
    assert "No such command" in shell("finetunee", code=2)


def test_a_process_ends_with_the_code_and_the_words_of_the_command(shell):
    assert "Usage: mafunzo" in shell.process("--help")
    assert shell.process("job", "list", "--json") == "[]\n"
    assert shell.process("job", "show", "none", code=2) == shell("job", "show", "none", code=2)
    assert shell.process("finetunee", code=2) == shell("finetunee", code=2)


@pytest.mark.parametrize("noun", ["model", "data", "job", "endpoint", "component", "environment", "compute"])
def test_every_list_prints_json(noun, shell):
    assert isinstance(json.loads(shell(noun, "list", "--json")), list)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param('{"messages": [{"role": "user", ', "row 17: ", id="broken JSON"),
        pytest.param('{"text_": "nothing here"}', "messages", id="no messages"),
        pytest.param(
            '{"messages": [{"role": "user", "content": "a"}, {"role": "asistant", "content": "b"}]}',
            "id you mean 'assistant'?",
            id="unknown role",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_row_and_reason_before_anything_starts(line, expected, shell, tmp_path):
    file = tmp_path / "train.jsonl"
    lines = rows(20)
    lines[16] = line
    file.write_text("\n".join(lines) + "\n")
    for words in (["data", "check", file], ["finetune", "--model", "tiny-llama", "--train", file]):
        told = shell(*words, code=2)
        assert "train.jsonl, row 17" in told
        assert expected in told
    assert json.loads(shell("job", "list", "--json")) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["--train", "{folder}/missing.jsonl"], "missing.jsonl', which doesn't exist", id="missing file"),
        pytest.param(["--train", "{folder}/empty.jsonl"], "empty", id="empty file"),
        pytest.param(["--train", "{good}", "lora_rank_=4"], "Did you mean lora_rank", id="unknown parameter"),
        pytest.param(["--train", "{good}", "learning_rate=0"], "learning_rate is '0'", id="out of range"),
        pytest.param(
            ["--train", "{good}", "lr_scheduler_type=cosin"], "Did you mean cosine?", id="not one of the values"
        ),
        pytest.param(
            ["--train", "{good}", "deepspeed_stage=3"],
            "deepspeed_stage is '3' while apply_deepspeed is 'false'",
            id="nothing would use it",
        ),
        pytest.param(["--train", "{good}", "--model", "tiny-lama"], "Did you mean tiny-llama", id="unknown model"),
        pytest.param(["{folder}/none.yml"], "none.yml can't be read", id="missing configuration"),
    ],
)
def test_bad_input_gets_one_clear_error(words, expected, shell, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    given = [word.format(folder=tmp_path, good=CONVERSATIONS) for word in words]
    model = [] if "--model" in given else ["--model", "tiny-llama"]
    told = shell("finetune", *model, *given, code=2)
    assert expected in told
    assert told.startswith("error: ")


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_says_both_ways(shell):
    told = shell(
        "finetune",
        "--model",
        "nobody/no-such-model",
        "--train",
        CONVERSATIONS,
        code=1,
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    assert "nobody/no-such-model" in told
    assert "mafunzo model mirror" in told


@pytest.mark.slow
def test_a_mirror_stands_in_for_the_hub(shell, tmp_path):
    shell("model", "download", "tiny-phi3", "--to", tmp_path / "tiny")
    shell("model", "mirror", "microsoft/Phi-3-mini-4k-instruct", tmp_path / "tiny")
    shell("model", "download", "Phi-3-mini-4k-instruct", "--to", tmp_path / "phi3")
    assert json.loads((tmp_path / "phi3" / "config.json").read_text())["model_type"] == "phi3"


@pytest.mark.slow
def test_preview_shows_what_is_learned(shell):
    told = json.loads(shell("data", "preview", CONVERSATIONS, "--model", "tiny-llama", "--rows", "2", "--json"))
    learned = "".join(piece["text"] for piece in told["rows"][0]["pieces"] if piece["trained"])
    first = json.loads(CONVERSATIONS.read_text().splitlines()[0])["messages"]
    assert all(message["content"] in learned for message in first if message["role"] == "assistant")
    assert not any(message["content"] in learned for message in first if message["role"] != "assistant")


def test_a_port_in_use_is_refused_and_its_holder_named(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        told = Shell(tmp_path / "home").process("up", "--detach", "--port", str(port), code=3)
    assert f"Port {port} is in use" in told
    assert str(os.getpid()) in told


def test_a_server_in_the_foreground_tells_at_once_where_it_is(tmp_path):
    shell = Shell(tmp_path / "home")
    told = tmp_path / "told.txt"
    with told.open("w") as file:
        command = [sys.executable, "-m", "mafunzo", "up"]
        server = subprocess.Popen(command, env=shell.environment, stdout=file, stderr=file)
    try:
        until(lambda: "mafunzo down" in told.read_text() or server.poll() is not None)
        address = json.loads(shell("up", "--detach", "--json"))
        for found in (address["openai"], address["azure"], address["mlflow"], f"Process           {server.pid}, home "):
            assert found in told.read_text()
    finally:
        server.terminate()
        assert server.wait(LIMIT_S) == 0


def test_a_second_server_on_the_same_home_is_refused(tmp_path):
    shell = Shell(tmp_path / "home")
    shell.process("up", "--detach")
    try:
        assert "is in use by a server" in shell.process("up", "--port", "0", code=3)
    finally:
        told = shell.process("down")
    assert "none of them is left" in told
    assert "Nothing was running" in shell("down")


def test_a_backup_is_restored_into_an_empty_home(shell, tmp_path):
    shell("data", "preview", CONVERSATIONS, "--model", "tiny-llama", "--json")
    shell("backup", tmp_path / "home.tar")
    restored = Shell(tmp_path / "restored")
    assert "every hash is right" in restored("restore", tmp_path / "home.tar")
    assert len(json.loads(restored("job", "list", "--json"))) == len(json.loads(shell("job", "list", "--json")))


def test_an_estimate_is_made_of_real_steps_and_the_job_finds_what_it_prepared(shell, tmp_path):
    words = ["--model", "tiny-llama", "--train", CONVERSATIONS, "apply_lora=true", "num_train_epochs=2"]
    body = json.loads(shell("estimate", *words, "--json", MAFUNZO_PRICE_PER_HOUR="2"))
    assert (body["rows"]["train"]["kept"], body["steps"], body["evaluations"]) == (48, 24, 2)
    assert 0 < body["time_s"]["low"] < body["time_s"]["high"]
    assert body["memory_bytes"]["expected"] < body["free_memory_bytes"] and body["cost"]["expected"] > 0
    told = shell("estimate", *words)
    assert "\nmemory " in told and "\ncost " not in told
    newest, *_ = json.loads(shell("job", "list", "--json"))
    steps = json.loads(shell("job", "show", newest["name"], "--json"))["steps"]
    assert [step["status"] for step in steps] == ["cached", "cached", "completed"]


def test_a_dry_run_prints_the_plan_and_the_estimate_and_trains_nothing(tmp_path):
    shell = Shell(tmp_path / "home")
    told = shell(
        "finetune", "--model", "tiny-llama", "--train", CONVERSATIONS, "lora_rank=4", "apply_lora=true", "--dry-run"
    )
    assert "finetune" in told and "lora_r" in told
    assert "\nmemory " in told and "\ntime " in told
    (job,) = json.loads(shell("job", "list", "--json"))
    assert job["name"].startswith("estimate-")
    shell("down")
