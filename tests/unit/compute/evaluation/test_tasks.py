import json
from pathlib import Path

import pytest

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.evaluation.tasks import batches_by_length, held_out_rows, reply_tasks, sample_indices
from mafunzo.errors import InvalidFile
from tests.support.tiny_evaluation import Folders


def test_a_reply_is_asked_for_at_the_last_assistant_turn(folders: Folders) -> None:
    tokenizer = load_tokenizer(folders.base)
    tasks, unusable = reply_tasks(folders.prepared, tokenizer, -1, 512, 2000, seed=1)
    assert (len(tasks), unusable) == (24, 0)
    task = tasks[2]
    assert [m.role for m in task.prompt.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert task.reference == "I went for a walk."
    text = tokenizer.apply_chat_template(
        [m.as_dict() for m in task.prompt.messages], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(task.prompt_ids) == text


def test_a_long_conversation_is_answered_at_an_earlier_turn(folders: Folders) -> None:
    tokenizer = load_tokenizer(folders.base)
    whole, _ = reply_tasks(folders.prepared, tokenizer, -1, 512, 2000, seed=1)
    tasks, _ = reply_tasks(folders.prepared, tokenizer, -1, len(whole[2].prompt_ids) - 1, 2000, seed=1)
    assert len(tasks[2].prompt.messages) == 3
    first, _ = reply_tasks(folders.prepared, tokenizer, -1, 1, 2000, seed=1)
    assert all(len(task.prompt.messages) == 1 for task in first)


def test_prompts_that_the_context_has_no_room_for_are_counted_and_replaced(folders: Folders) -> None:
    tokenizer = load_tokenizer(folders.base)
    whole, _ = reply_tasks(folders.prepared, tokenizer, -1, 512, 2000, seed=1)
    room = max(len(task.prompt_ids) for task in whole if len(task.prompt.messages) == 1)
    fitting, unusable = reply_tasks(folders.prepared, tokenizer, 5, 512, room, seed=1)
    assert len(fitting) == 5 and unusable > 0


def test_conversations_without_an_answer_are_left_out(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    rows = [
        {"messages": [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
    ]
    (tmp_path / "raw" / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tasks, unusable = reply_tasks(tmp_path, load_tokenizer(folders.base), -1, 512, 2000, seed=1)
    assert ([task.reference for task in tasks], unusable) == (["Ho"], 1)


def test_no_reply_is_compared_with_a_turn_that_is_excluded_from_training(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    good, wrong = {"role": "assistant", "content": "42"}, {"role": "assistant", "content": "41", "loss": False}
    user = {"role": "user", "content": "6 times 7?"}
    rows = [{"messages": [user, good, user, wrong]}, {"messages": [user, wrong, user, good]}]
    (tmp_path / "raw" / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tasks, unusable = reply_tasks(tmp_path, load_tokenizer(folders.base), -1, 512, 2000, seed=1)
    assert [(task.reference, len(task.prompt.messages)) for task in tasks] == [("42", 1), ("42", 3)]
    assert unusable == 0


def test_a_draw_is_by_seed_and_in_order() -> None:
    assert sample_indices(5, -1, 1) == sample_indices(5, 9, 1) == [0, 1, 2, 3, 4]
    indices = sample_indices(100, 10, 1)
    assert indices == sorted(set(indices)) == sample_indices(100, 10, 1) != sample_indices(100, 10, 2)


def test_batches_hold_every_row_once_within_their_bounds() -> None:
    lengths = [5, 100, 7, 300, 7, 9, 8, 250]
    batches = batches_by_length(lengths, most_rows=3, most_tokens=200)
    assert sorted(i for batch in batches for i in batch) == list(range(8))
    for batch in batches:
        assert len(batch) <= 3
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 200


def test_a_folder_that_prepare_data_did_not_write_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"no test\.parquet: it isn't prepare_data's output"):
        held_out_rows(tmp_path)
