"""Token ids and labels: cut, weights, offsets, and many rows at a time."""

import random
from array import array
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mafunzo.compute.chat import examples
from mafunzo.compute.chat.examples import IGNORED, Encoder, Example, Unusable, pieces
from mafunzo.compute.chat.template import render, render_ids
from mafunzo.entities.conversation import Conversation, conversation_from_dict
from mafunzo.errors import InvalidData
from tests.support.chat_families import encode_with_labels, encoder, family, make_tokenizer


def say(*turns: tuple[str, str], **extra: Any) -> Conversation:
    return conversation_from_dict({"messages": [{"role": role, "content": text, **extra} for role, text in turns]})


TALK = say(("user", "Hi."), ("assistant", "Hello!"), ("user", "Bye."), ("assistant", "See you."))


def test_ids_are_those_of_apply_chat_template_with_one_token_of_the_beginning() -> None:
    for name in ("llama3", "gemma", "phi3", "smollm2"):
        tokenizer = family(name)
        ids, labels = encode_with_labels(tokenizer, TALK)
        messages = [message.as_dict() for message in TALK.messages]
        assert ids == list(tokenizer.apply_chat_template(messages)["input_ids"]) == render_ids(tokenizer, TALK)
        assert len(ids) == len(labels)
        assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    llama = family("llama3")
    assert encode_with_labels(llama, TALK)[0].count(llama.bos_token_id) == 1


def test_a_tokenizer_that_writes_the_beginning_itself_adds_no_second() -> None:
    tokenizer = family("llama3")
    body = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    writes = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    body.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), writes])
    writing = PreTrainedTokenizerFast(tokenizer_object=body, bos_token=bos[0], eos_token=tokenizer.eos_token)
    writing.chat_template = tokenizer.chat_template
    assert writing("x")["input_ids"][0] == bos[1]
    assert encode_with_labels(writing, TALK) == encode_with_labels(tokenizer, TALK)


@pytest.mark.parametrize("length", [20, 25, 30, 40, 1000])
def test_a_cut_takes_the_beginning_and_changes_no_label(length: int) -> None:
    whole = encoder(family("phi3")).encode([TALK], None)[0]
    prefix = encoder(family("phi3")).encode([TALK], length)[0]
    assert isinstance(whole, Example) and isinstance(prefix, Example)
    assert (prefix.input_ids, prefix.labels) == (whole.input_ids[:length], whole.labels[:length])
    assert prefix.is_truncated == (length < len(whole.input_ids))
    assert prefix.full_length == len(whole.input_ids)


def test_a_row_that_is_cut_before_the_first_answer_says_so() -> None:
    unusable = encoder(family("phi3")).encode([TALK], 5)[0]
    assert isinstance(unusable, Unusable)
    assert unusable.is_too_long
    assert unusable.reason == "cut at 5 tokens, before the assistant's first word (token 7 of 30); raise max_seq_length"


def test_a_turn_of_weight_0_is_read_but_not_trained() -> None:
    conversation = conversation_from_dict(
        {
            "messages": [
                {"role": "user", "content": "Hi."},
                {"role": "assistant", "content": "Bad answer", "weight": 0},
                {"role": "user", "content": "No."},
                {"role": "assistant", "content": "Good answer", "weight": 1},
            ]
        }
    )
    example = encoder(family("phi3")).encode([conversation], None)[0]
    assert isinstance(example, Example)
    assert [piece["text"] for piece in pieces(example) if piece["trained"]] == ["Good answer<|end|>\n"]
    assert "weight" not in render(family("phi3"), conversation)


def test_the_last_turn_alone_is_trained_where_that_is_asked_for() -> None:
    example = Encoder(family("phi3"), "last").encode([TALK], None)[0]
    assert isinstance(example, Example)
    assert [piece["text"] for piece in pieces(example) if piece["trained"]] == ["See you.<|end|>\n"]
    left_out = conversation_from_dict(
        {
            "messages": [message.as_dict() for message in TALK.messages[:3]]
            + [{"role": "assistant", "content": "x", "weight": 0}]
        }
    )
    unusable = Encoder(family("phi3"), "last").encode([left_out], None)[0]
    assert isinstance(unusable, Unusable)
    assert unusable.reason.startswith("the last turn of the assistant isn't to be trained (weight 0")


@pytest.mark.parametrize("with_pieces", [True, False])
@pytest.mark.parametrize("name", ["phi3", "llama3", "gemma", "qwen2_5"])
def test_everything_is_trained_where_that_is_asked_for(name: str, with_pieces: bool) -> None:
    """As TRL does without assistant_only_loss: the labels are the ids."""
    example = Encoder(family(name), "everything").encode([TALK], None, with_pieces)[0]
    assert isinstance(example, Example)
    assert example.labels == example.input_ids


def test_everything_leaves_out_what_a_weight_leaves_out() -> None:
    bad = {"role": "assistant", "content": "Bad answer", "weight": 0}
    turns = [{"role": "user", "content": "Hi."}, bad, {"role": "user", "content": "No."}, TALK.messages[1].as_dict()]
    example = Encoder(family("phi3"), "everything").encode([conversation_from_dict({"messages": turns})], None)[0]
    assert isinstance(example, Example)
    assert [piece["text"] for piece in pieces(example) if not piece["trained"]] == ["Bad answer<|end|>\n"]


@pytest.mark.parametrize("field", ["loss", "train", "training", "weight"])
def test_a_turn_that_a_field_excludes_is_read_but_not_trained(field: str) -> None:
    bad = {"role": "assistant", "content": "Bad answer", field: 0 if field == "weight" else False}
    turns = [{"role": "user", "content": "Hi."}, bad, {"role": "user", "content": "No."}, TALK.messages[1].as_dict()]
    conversation = conversation_from_dict({"messages": turns})
    example = encoder(family("phi3")).encode([conversation], None)[0]
    assert isinstance(example, Example)
    assert "Bad answer" in example.text and field not in example.text
    assert [piece["text"] for piece in pieces(example) if piece["trained"]] == ["Hello!<|end|>\n"]


def test_fields_that_the_template_leaves_out_are_named() -> None:
    def unread(name: str, *messages: dict[str, Any]) -> list[str]:
        conversation = conversation_from_dict({"messages": messages})
        example = encoder(family(name)).encode([conversation], None)[0]
        assert isinstance(example, Example)
        return list(encoder(family(name)).unread_fields(conversation, example))

    user = {"role": "user", "content": "Hi."}
    thinking = {"role": "assistant", "content": "Hello!", "reasoning_content": "They greet me.", "weight": 1}
    assert unread("qwen3", user, thinking) == []
    assert unread("qwen3", user, thinking, user, TALK.messages[1].as_dict()) == ["reasoning_content"]
    assert unread("phi3", {**user, "name": "Amina"}, thinking) == ["name", "reasoning_content"]
    assert unread("phi3", user, {"role": "assistant", "content": "Hello!", "score": 4}) == ["score"]
    assert unread("phi3", user, {"role": "assistant", "content": "Hello!", "loss": True, "note": ""}) == []


def test_a_template_that_no_row_can_be_trained_with_is_refused_once() -> None:
    template = "{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(InvalidData, match="the chat template of made ends an assistant's turn without a token for it"):
        Encoder(make_tokenizer(template, None, "<e>", ["<e>"]))


def test_no_turn_to_train_is_said() -> None:
    silent = say(("user", "Hi."), ("assistant", "Hello!"), weight=0)
    with pytest.raises(InvalidData, match="no turn of the assistant is to be trained"):
        encode_with_labels(family("phi3"), silent)


def test_a_token_that_begins_in_the_header_belongs_to_the_prompt() -> None:
    template = (
        "{% for m in messages %}{{ '<a>' + m['role'] + ':\n' + m['content'] + '<e>' }}{% endfor %}"
        "{% if add_generation_prompt %}<a>assistant:\n{% endif %}"
    )
    merging = Tokenizer(models.BPE())
    merging.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merging.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    merging.train_from_iterator([":\n\n hello"] * 20, trainer)
    merging.add_special_tokens([AddedToken("<a>", special=True), AddedToken("<e>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="<e>")
    tokenizer.chat_template = template
    ids, labels = encode_with_labels(tokenizer, say(("user", "x"), ("assistant", "\n hello")))
    straddling = tokenizer.convert_tokens_to_ids("ĊĊ")
    assert straddling in ids
    assert labels[ids.index(straddling)] == IGNORED
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == " hello<e>"


def test_many_rows_are_encoded_as_each_alone_and_bad_ones_keep_their_place() -> None:
    rows = [TALK, say(("system", "x"), ("user", "y"), ("assistant", "z")), say(("user", "1"), ("assistant", "2"))]
    together = Encoder(family("gemma")).encode(rows, None)
    assert [type(result) for result in together] == [Example, Unusable, Example]
    for row, result in zip(rows, together, strict=True):
        assert Encoder(family("gemma")).encode([row], None) == [result]


def test_a_special_token_in_a_text_is_named() -> None:
    tricky = say(("user", "Hi."), ("assistant", "a <|end|> b"))
    assert Encoder(family("phi3")).own_token(tricky) == "<|end|>"
    assert Encoder(family("phi3")).own_token(TALK) == ""


def test_shapes_that_are_forgotten_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mafunzo.compute.chat.mask.REMEMBERED_SHAPES", 1)
    monkeypatch.setattr("mafunzo.compute.chat.mask.REMEMBERED_PROMPTS", 1)
    fresh = Encoder(family("qwen2_5"))
    short = say(("user", "1"), ("assistant", "2"))
    assert fresh.encode([TALK, short, TALK, short], None)[:2] == fresh.encode([TALK, short], None)


def test_pieces_join_to_the_text_that_was_kept() -> None:
    example = encoder(family("qwen2_5")).encode([TALK], None)[0]
    assert isinstance(example, Example)
    assert "".join(piece["text"] for piece in pieces(example)) == example.text
    prefix = encoder(family("qwen2_5")).encode([TALK], 110)[0]
    assert isinstance(prefix, Example)
    text = "".join(piece["text"] for piece in pieces(prefix))
    assert text and example.text.startswith(text)


def test_a_template_without_its_own_tokens_in_the_vocabulary_is_refused() -> None:
    tokenizer = make_tokenizer("{% for m in messages %}{{ m['content'] }}<e>{% endfor %}", None, "<end>", ["<end>"])
    with pytest.raises(InvalidData, match="could never learn to stop"):
        encode_with_labels(tokenizer, TALK)


@pytest.mark.parametrize("length", [None, 20, 5])
def test_what_is_encoded_without_pieces_is_the_same_besides(length: int | None) -> None:
    rows = [TALK, say(("user", "Hi."), ("assistant", "Hello!"), weight=0), say(("user", "A"), ("assistant", "B")), TALK]
    own = encoder(family("phi3"))
    whole = [
        replace(example, piece_ends=array("q")) if isinstance(example, Example) else example
        for example in own.encode(rows, length)
    ]
    assert own.encode(rows, length, with_pieces=False) == whole


class Tokenized:
    """What the tokenizer says of a text, from its tokens and their offsets."""

    def __init__(self, ids: list[int], offsets: list[tuple[int, int]]) -> None:
        self.ids, self.offsets = ids, offsets

    def __len__(self) -> int:
        return len(self.ids)

    def char_to_token(self, place: int) -> int | None:
        return next((i for i, (start, end) in enumerate(self.offsets) if start <= place < end), None)

    def token_to_chars(self, token: int) -> tuple[int, int]:
        return self.offsets[token]


def test_tokens_of_several_characters_of_none_and_of_a_part_of_one_are_found_by_where_they_start() -> None:
    offsets = [(0, 3), (3, 3), (3, 5), (4, 5), (4, 5), (7, 9), (9, 9)]
    encoding = Tokenized(list(range(7)), offsets)
    for place in range(11):
        slow = next((i for i, (start, _) in enumerate(offsets) if start >= place), 7)
        assert examples._first_token(encoding, place, 9) == slow


@pytest.mark.parametrize("seed", range(30))
def test_a_token_is_trained_if_it_starts_within_a_span(seed: int) -> None:
    """Against the slow version, which asks each token; several tokens may start at one place, as a character's bytes do."""
    draw = random.Random(seed)
    bounds = sorted(draw.sample(range(200), 6))
    spans = [(bounds[2 * i], bounds[2 * i + 1]) for i in range(3)]
    starts = sorted(draw.choices(range(210), k=120))
    ids = [draw.randrange(1000) for _ in starts]
    expected = [
        token if any(first <= start < end for first, end in spans) else IGNORED
        for token, start in zip(ids, starts, strict=True)
    ]
    length = draw.randrange(1, 121)
    rendering = examples._Rendering("x" * 211, spans)
    encoding = Tokenized(ids, [(start, start + 1) for start in starts])
    result = examples._example(rendering, encoding, length, with_pieces=True)
    if set(expected[:length]) == {IGNORED}:
        assert isinstance(result, Unusable)
    else:
        assert isinstance(result, Example)
        assert (result.input_ids, result.labels) == (ids[:length], expected[:length])
        assert list(result.piece_ends) == [start + 1 for start in starts[:length]]
        assert result.assistant_tokens == sum(label != IGNORED for label in expected[:length])
