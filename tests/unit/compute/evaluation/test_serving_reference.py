import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mafunzo.compute.chat.template import render_ids
from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.evaluation.serving_reference import TOLERANCE, _of_last_answer, _rendered, serving_reference
from mafunzo.compute.evaluation.tasks import raw_rows
from mafunzo.compute.inference.stop import stop_token_ids
from mafunzo.compute.model.loading import load_network
from mafunzo.entities.conversation import conversation_from_dict
from mafunzo.errors import InvalidData
from tests.support.chat_families import family
from tests.support.tiny_evaluation import Folders


def make_reference(folders: Folders, merge: bool = True, tuned: Path | None = None, **options: int) -> dict[str, Any]:
    limits = {"rows": 4, "max_tokens": 512} | options
    return serving_reference(
        folders.base, tuned or folders.tuned, merge, raw_rows(folders.prepared), dtype=None, **limits
    )


@pytest.mark.parametrize("merge", [True, False])
@torch.inference_mode()
def test_our_own_loader_gives_what_plain_transformers_and_peft_give(folders: Folders, merge: bool) -> None:
    reference = make_reference(folders, merge)
    network = load_network(folders.base, folders.tuned, merge=merge)
    for row in reference["rows"]:
        ids = torch.tensor([row["token_ids"]])
        ours = network(input_ids=ids).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        assert row["logprobs"][0] is None
        assert row["logprobs"][1:] == pytest.approx(ours.tolist(), abs=1e-4)


def test_rows_hold_the_whole_conversation_and_the_prompt_of_its_last_answer(folders: Folders) -> None:
    reference = make_reference(folders)
    tokenizer = load_tokenizer(folders.base)
    for row, raw in zip(reference["rows"], raw_rows(folders.prepared), strict=False):
        assert row["messages"] == raw["messages"]
        assert tokenizer.decode(row["token_ids"]) == tokenizer.apply_chat_template(raw["messages"], tokenize=False)
        assert row["token_ids"][: len(row["prompt_token_ids"])] == row["prompt_token_ids"]
        assert len(row["logprobs"]) == len(row["base_logprobs"]) == len(row["token_ids"])
    json.dumps(reference)


@pytest.mark.parametrize("arguments", ['{"town": "Lamu"}', "{}", ""])
def test_calls_are_rendered_as_training_and_the_worker_render_them(arguments: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "ferry_time", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "At nine."},
        {"role": "assistant", "content": "At nine."},
    ]
    for tokenizer in (family("qwen2_5"), family("qwen3")):
        row = _rendered(tokenizer, {"messages": messages}, 1000)
        assert row is not None and row["messages"] == messages
        assert row["token_ids"] == render_ids(tokenizer, conversation_from_dict({"messages": messages}))


def test_a_row_that_the_plain_template_refuses_proves_nothing(folders: Folders) -> None:
    turns = [{"role": role, "content": "x"} for role in ("system", "user", "assistant")]
    assert _rendered(family("gemma"), {"messages": turns}, 1000) is None


def test_the_base_lies_farther_away_than_the_tolerance(folders: Folders) -> None:
    reference = make_reference(folders)
    largest, mean = TOLERANCE[torch.float32]
    assert (reference["tolerance"], reference["mean_tolerance"]) == (largest, mean)
    assert reference["base_difference"]["max"] > largest and reference["base_difference"]["mean"] > mean


def test_a_long_conversation_is_cut_after_an_earlier_answer(folders: Folders) -> None:
    rows = [row for row in raw_rows(folders.prepared) if len(row["messages"]) == 6]
    longest = len(make_reference(folders, rows=24)["rows"][2]["token_ids"])
    reference = serving_reference(folders.base, folders.tuned, True, rows, 1, longest - 1, None)
    assert len(reference["rows"][0]["messages"]) == 4
    with pytest.raises(InvalidData, match="at most 3 tokens"):
        make_reference(folders, max_tokens=3)


def test_stop_tokens_are_those_that_the_worker_finds_for_itself(folders: Folders) -> None:
    network, tokenizer = load_network(folders.base), load_tokenizer(folders.base)
    assert make_reference(folders)["stop_token_ids"] == sorted(stop_token_ids(tokenizer, network.generation_config))


def test_a_whole_tuned_model_is_its_own_reference(folders: Folders) -> None:
    reference = make_reference(folders, tuned=folders.base)
    assert reference["base_difference"] == {"max": 0.0, "mean": 0.0}
    assert reference["merged"] is True and reference["dtype"] == "float32"


@pytest.mark.parametrize("merge", [True, False])
@torch.inference_mode()
def test_each_place_of_the_last_answer_has_the_token_that_greedy_decoding_takes(folders: Folders, merge: bool) -> None:
    reference = make_reference(folders, merge)
    network = load_network(folders.base, folders.tuned, merge=merge)
    for row in reference["rows"]:
        start = len(row["prompt_token_ids"])
        likeliest = network(input_ids=torch.tensor([row["token_ids"]])).logits[0].argmax(-1).tolist()
        assert row["greedy_ids"] == [None] * start + likeliest[start - 1 : -1]


@pytest.mark.parametrize(
    ("token_ids", "prompt", "expected"),
    [
        pytest.param([1, 2, 3, 4], [1, 2], [None, None, 12, 13], id="after the prompt"),
        pytest.param([1, 2, 3, 4], [1, 9, 9, 9], [None, 11, 12, 13], id="where the prompt of a reply differs"),
        pytest.param([1, 2], [], [None, 11], id="nothing before the first token"),
        pytest.param([1, 2], [1, 2, 3, 4], [None, None], id="a prompt that is longer"),
    ],
)
def test_greedy_tokens_begin_where_the_answer_does(
    token_ids: list[int], prompt: list[int], expected: list[Any]
) -> None:
    row = {"token_ids": token_ids, "prompt_token_ids": prompt}
    assert _of_last_answer(row, [11, 12, 13][: len(token_ids) - 1]) == expected


def test_lower_precisions_have_tolerances_of_their_own(folders: Folders) -> None:
    assert make_reference(folders)["lower_precision_tolerances"] == {
        "bfloat16": TOLERANCE[torch.bfloat16],
        "float16": TOLERANCE[torch.float16],
    }
