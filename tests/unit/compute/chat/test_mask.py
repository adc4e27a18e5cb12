# ruff: noqa: RUF001 - DeepSeek writes its tokens with a full-width line
"""What is trained, to the character, for the templates of every family in the catalogue."""

from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mafunzo.compute.chat import mask
from mafunzo.compute.chat.examples import IGNORED, Example, Unusable, pieces
from mafunzo.compute.chat.mask import SpanFinder, align
from mafunzo.compute.chat.template import render, render_ids
from mafunzo.entities.conversation import Conversation, conversation_from_dict
from mafunzo.errors import InvalidData
from tests.support.chat_families import FAMILIES, encoder, family, make_tokenizer, training_template

CATALOGUE = [name for name in FAMILIES if name not in ("mistral", "deepseek_r1_distill")]


def say(*turns: tuple[str, str], tools: list[Any] | None = None) -> Conversation:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return conversation_from_dict({"messages": [{"role": names[r], "content": c} for r, c in turns], "tools": tools})


TABLE = {
    "u a": say(("u", "Hi."), ("a", "Hello!")),
    "u a u a": say(("u", "Hi."), ("a", "Hello!"), ("u", "Bye."), ("a", "See you.")),
    "s u a": say(("s", "Be brief."), ("u", "Hi."), ("a", "Hello!")),
    "s u a u a u a": say(
        ("s", "Be brief."), ("u", "1"), ("a", "one"), ("u", "2"), ("a", "two"), ("u", "3"), ("a", "three")
    ),
    "u a u": say(("u", "Hi."), ("a", "Hello!"), ("u", "Bye.")),
    "u u a": say(("u", "Hi."), ("u", "You there?"), ("a", "Yes.")),
    "u u a u a": say(("u", "Hi."), ("u", "You there?"), ("a", "Yes."), ("u", "Good."), ("a", "Fine.")),
    "u a a": say(("u", "Hi."), ("a", "Hello!"), ("a", "How are you?")),
    "a u a": say(("a", "Welcome."), ("u", "Hi."), ("a", "Hello!")),
    "white space": say(("u", "  Hi.\n"), ("a", "\n Hello! \n\n"), ("u", "a\n\nb"), ("a", "c \n d")),
    "unicode": say(("u", "naïve 😀"), ("a", "日本 🇨🇭 é"), ("u", "ß"), ("a", "ok")),
    "same words everywhere": say(("u", "assistant"), ("a", "assistant"), ("u", "assistant"), ("a", "user")),
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": {"type": "object"}}}


def call(content: str | None = None, **extra: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": '{"city": "Bern"}'}
    body = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}], **extra}
    return body if content is None else {**body, "content": content}


CALLS = conversation_from_dict(
    {
        "messages": [
            {"role": "user", "content": "Weather?"},
            call(),
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
        ],
        "tools": [WEATHER],
    }
)


def encode(name: str, conversation: Conversation) -> Example | Unusable:
    return encoder(family(name)).encode([conversation], None)[0]


def marked(name: str, conversation: Conversation) -> str:
    """Return the text with «» around what is trained."""
    example = encode(name, conversation)
    assert isinstance(example, Example), example
    return "".join(f"«{piece['text']}»" if piece["trained"] else piece["text"] for piece in pieces(example))


@pytest.mark.parametrize(
    "name, conversation, expected",
    [
        pytest.param("phi3", "u a", "<|user|>\nHi.<|end|>\n<|assistant|>\n«Hello!<|end|>\n»<|endoftext|>", id="phi3: end, not text"),
        pytest.param("phi3", "u u a", "<|user|>\nHi.<|end|>\n<|user|>\nYou there?<|end|>\n<|assistant|>\n«Yes.<|end|>\n»<|endoftext|>", id="phi3: two users in a row lose nothing"),
        pytest.param("phi3", "u a a", "<|user|>\nHi.<|end|>\n<|assistant|>\n«Hello!<|end|>\n»<|assistant|>\n«How are you?<|end|>\n»<|endoftext|>", id="phi3: second header isn't trained"),
        pytest.param("phi3_medium", "u u a", "<|user|>\nHi.<|end|>\n<|assistant|>\n<|user|>\nYou there?<|end|>\n<|assistant|>\n«Yes.<|end|>\n»", id="phi3 medium: a header that no answer follows isn't trained"),
        pytest.param("tiny_llama", "s u a", "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n«Hello!<|eot_id|>»", id="tiny llama"),
        pytest.param("tiny_phi3", "u a", "<|user|>\nHi.<|end|>\n<|assistant|>\n«Hello!<|end|>»\n<|endoftext|>", id="tiny phi3: its end swallows no line break"),
        pytest.param("phi4_mini", "u a", "<|user|>Hi.<|end|><|assistant|>«Hello!<|end|>»<|endoftext|>", id="phi4 mini"),
        pytest.param("phi4", "u a u", "<|im_start|>user<|im_sep|>Hi.<|im_end|><|im_start|>assistant<|im_sep|>«Hello!<|im_end|>»<|im_start|>user<|im_sep|>Bye.<|im_end|>", id="phi4: trailing user"),
        pytest.param("gemma3", "s u a", "<bos><start_of_turn>user\nBe brief.\n\nHi.<end_of_turn>\n<start_of_turn>model\n«Hello!<end_of_turn>»\n", id="gemma3: system inside of the user's turn"),
        pytest.param("gemma", "white space", "<bos><start_of_turn>user\nHi.<end_of_turn>\n<start_of_turn>model\n«Hello!<end_of_turn>»\n<start_of_turn>user\na\n\nb<end_of_turn>\n<start_of_turn>model\n«c \n d<end_of_turn>»\n", id="gemma: trimmed"),
        pytest.param("llama3", "a u a", "<|begin_of_text|><|start_header_id|>assistant<|end_header_id|>\n\n«Welcome.<|eot_id|>»<|start_header_id|>user<|end_header_id|>\n\nHi.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n«Hello!<|eot_id|>»", id="llama3: assistant first"),
        pytest.param("smollm2", "u a", "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n«Hello!<|im_end|>»\n", id="smollm2: default system"),
        pytest.param("qwen3", "u a u a", "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n«Hello!<|im_end|>»\n<|im_start|>user\nBye.<|im_end|>\n<|im_start|>assistant\n«<think>\n\n</think>\n\nSee you.<|im_end|>»\n", id="qwen3: the empty thought of the last turn is generated too"),
        pytest.param("mistral", "u a u a", "<s>[INST] Hi. [/INST]« Hello!</s>»[INST] Bye. [/INST]« See you.</s>»", id="mistral: no header, the space is generated"),
        pytest.param("deepseek_r1_distill", "u a u a", "<｜begin▁of▁sentence｜><｜User｜>Hi.<｜Assistant｜>«Hello!<｜end▁of▁sentence｜>»<｜User｜>Bye.<｜Assistant｜>«See you.<｜end▁of▁sentence｜>»", id="r1: the prompt that is served goes further"),
    ],
)  # fmt: skip
def test_the_assistants_words_and_end_of_turn_are_trained(name: str, conversation: str, expected: str) -> None:
    assert marked(name, TABLE[conversation]) == expected


def test_the_picture_of_the_module_is_what_happens() -> None:
    lines = (line[4:].partition(" ") for line in str(mask.__doc__).splitlines() if line.startswith("    "))
    picture = {name: rest.lstrip(" ") if name != "mask" else rest[6:] for name, _, rest in lines}
    text, spans = SpanFinder(family("phi4_mini")).find(TABLE["u a"])
    marks = "".join("^" if any(span.start <= i < span.end for span in spans) else " " for i in range(len(text)))
    assert (picture["text"], picture["mask"]) == (text, marks.rstrip())


@pytest.mark.parametrize("key", TABLE)
@pytest.mark.parametrize("name", CATALOGUE)
def test_it_agrees_with_prompts_rendered_turn_by_turn(name: str, key: str) -> None:
    conversation = TABLE[key]
    example = encode(name, conversation)
    if isinstance(example, Unusable) and name == "phi3_medium":
        assert key in UNUSABLE_FOR_PHI3_MEDIUM
        assert UNUSABLE_FOR_PHI3_MEDIUM[key] in example.reason
        return
    if isinstance(example, Unusable):
        with pytest.raises(InvalidData, match="refuses it"):
            render(family(name), conversation)
        return
    expected = turn_by_turn(family(name), conversation, example.input_ids)
    if expected is None:
        assert (name, key) in UNSTABLE
        return
    assert example.labels == expected


# It drops system messages, and writes the assistant's header as the end of the user's turn.
UNUSABLE_FOR_PHI3_MEDIUM = {
    "s u a": "leaves out or rewrites message 1 ('system')",
    "s u a u a u a": "leaves out or rewrites message 1 ('system')",
    "a u a": "no turn stands before it",
}
# Where the template writes a turn differently once another follows it, the turn-by-turn method doesn't apply; the table
# above and TRL's templates below stand for those.
UNSTABLE = {("qwen3", "u a a"), *((name, "a u a") for name in CATALOGUE)}


def turn_by_turn(tokenizer: Any, conversation: Conversation, ids: list[int]) -> list[int] | None:
    """The slow obvious method: tokenise the prompt of each turn, and train from there to the first end-of-turn token."""
    stops = stop_ids(tokenizer)
    labels = [IGNORED] * len(ids)
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        if index == 0:
            return None
        prompt = render_ids(tokenizer, Conversation(conversation.messages[:index], conversation.tools), True)
        if ids[: len(prompt)] != prompt:
            return None
        end = next(i for i in range(len(prompt), len(ids)) if ids[i] in stops) + 1
        labels[len(prompt) : end] = ids[len(prompt) : end]
    return labels


TRL_CASES = [
    (name, key)
    for name in ("phi3", "phi3_5", "llama3", "gemma", "gemma3", "qwen2_5")
    for key in TABLE
    if not (name.startswith("gemma") and key in ("u u a", "u u a u a", "u a a", "a u a"))
    and not (name == "gemma" and key.startswith("s "))
    and not (
        name.startswith("phi3") and key == "white space"
    )  # TRL trains the header that swallows the text's first space
] + [("qwen3", "u a"), ("qwen3", "s u a"), ("qwen3", "u u a")]


@pytest.mark.parametrize("name, key", TRL_CASES)
def test_it_agrees_with_trls_templates_that_mark_what_is_generated(name: str, key: str) -> None:
    tokenizer = family(name, trims=False)  # else transformers itself doesn't find the tokens of white space
    example = encode(name, TABLE[key])
    assert isinstance(example, Example)
    reference = tokenizer.apply_chat_template(
        [message.as_dict() for message in TABLE[key].messages],
        chat_template=training_template(name),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert reference["input_ids"] == example.input_ids
    header = tokenizer.encode("\n") if name == "qwen2_5" else []
    expected = without_separators(reference["assistant_masks"], example.input_ids, stop_ids(tokenizer), header)
    assert [int(label != IGNORED) for label in example.labels] == expected


def without_separators(mask: list[int], ids: list[int], stops: set[int], header: list[int]) -> list[int]:
    """TRL also trains what stands between the end-of-turn token and the next header, and Qwen's line break before the text."""
    result: list[int] = []
    for is_marked, run in groupby(range(len(ids)), lambda i: mask[i]):
        tokens = [ids[i] for i in run]
        first = len(header) if is_marked and tokens[: len(header)] == header else 0
        last = next((i for i, token in enumerate(tokens) if token in stops), -1) if is_marked else -1
        result += [int(first <= i <= last) for i in range(len(tokens))]
    return result


def stop_ids(tokenizer: Any) -> set[int]:
    names = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>")
    return {tokenizer.convert_tokens_to_ids(name) for name in names} - {None}


@pytest.mark.parametrize(
    "name, call_text",
    [
        pytest.param("qwen2_5", '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call><|im_end|>', id="qwen2.5"),
        pytest.param("qwen3", '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call><|im_end|>', id="qwen3"),
        pytest.param("llama3_2", '{"name": "weather", "parameters": {"city": "Bern"}}<|eot_id|>', id="llama 3.2"),
    ],
)  # fmt: skip
def test_a_tool_call_is_trained_and_its_result_is_not(name: str, call_text: str) -> None:
    example = encode(name, CALLS)
    assert isinstance(example, Example)
    answers = [piece["text"] for piece in pieces(example) if piece["trained"]]
    assert answers[0] == call_text
    assert answers[1].endswith("It is sunny." + ("<|eot_id|>" if name == "llama3_2" else "<|im_end|>"))
    assert len(answers) == 2


def test_words_before_a_tool_call_are_trained_with_it() -> None:
    body = CALLS.as_dict()
    body["messages"][1] = call("Let me look.")
    answers = [piece["text"] for piece in pieces_of("qwen2_5", conversation_from_dict(body)) if piece["trained"]]
    assert answers[0].startswith("Let me look.\n<tool_call>")
    assert answers[0].endswith("</tool_call><|im_end|>")


def pieces_of(name: str, conversation: Conversation) -> list[dict[str, Any]]:
    example = encode(name, conversation)
    assert isinstance(example, Example)
    return pieces(example)


def test_reasoning_is_trained_where_the_template_keeps_it() -> None:
    thought = say(
        ("u", "1"), ("a", "<think>\nhm\n</think>\n\none"), ("u", "2"), ("a", "<think>\nwell\n</think>\n\ntwo")
    )
    answers = [piece["text"] for piece in pieces_of("qwen3", thought) if piece["trained"]]
    assert answers == ["one<|im_end|>", "<think>\nwell\n</think>\n\ntwo<|im_end|>"]


@pytest.mark.parametrize(
    "name, conversation, reason",
    [
        pytest.param("phi3", CALLS, "leaves out|refuses it", id="phi3 knows no tools"),
        pytest.param("llama3", CALLS, r"leaves out the tool definitions \('tools'\)", id="llama3 knows no tools"),
        pytest.param("smollm2", conversation_from_dict({"messages": [{"role": "user", "content": "Weather?"}, call("Let me look.")]}), "leaves out the tool calls of message 2", id="calls that are dropped"),
        pytest.param("gemma", TABLE["s u a"], "System role not supported", id="gemma has no system"),
        pytest.param("gemma3", TABLE["u u a"], "roles must alternate", id="gemma alternates"),
        pytest.param("phi3", say(("u", "1"), ("t", "2"), ("a", "3")), r"leaves out or rewrites message 2 \('tool'\)", id="a role that is dropped"),
    ],
)  # fmt: skip
def test_what_a_template_refuses_or_loses_is_said(name: str, conversation: Conversation, reason: str) -> None:
    tokenizer = family(name)
    with pytest.raises(InvalidData, match=reason) as excinfo:
        SpanFinder(tokenizer).find(conversation)
    assert name in excinfo.value.message


@pytest.mark.parametrize(
    "template, reason",
    [
        pytest.param(
            "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}",
            "without a token for it, so that a model could never learn to stop",
            id="no token at the end",
        ),
        pytest.param(
            "{% for m in messages %}{{ '<a>' + m['role'] + m['content'] | upper + '<e>' }}{% endfor %}",
            "leaves out or rewrites message 1",
            id="contents are changed",
        ),
        pytest.param(
            "{% for m in messages %}{{ '<a>' + m['role'] + m['content'] + ('!' if m['content'] == 'Hi.' else '') + '<e>' }}"
            "{% endfor %}",
            "in another form because of what a message says",
            id="contents decide the form",
        ),
        pytest.param(
            "{% for m in messages | reverse %}{{ '<a>' + m['role'] + m['content'] + '<e>' }}{% endfor %}",
            "changes the order",
            id="newest first",
        ),
        pytest.param(
            "{% for m in messages %}{{ '<a>' + m['role'] + m['content'] + m['content'] + '<e>' }}{% endfor %}",
            "repeats message 1",
            id="said twice",
        ),
        pytest.param(
            "{% for m in messages %}{{ '<a>' + m['role'] + m['content'] }}{% endfor %}<e>",
            "'<e>' ends the last turn, but '<a>' ends this one",
            id="only the last turn ends",
        ),
        pytest.param(
            "{% for m in messages %}{{ '<a>' + m['role'] + m['content'] + '<e>' }}{% endfor %}"
            "{% if add_generation_prompt %}<a>robot{% endif %}",
            "the prompt that is served for it ends differently",
            id="another header is served",
        ),
    ],
)
def test_a_template_whose_turns_cant_be_proven_is_refused_by_name(template: str, reason: str) -> None:
    tokenizer = make_tokenizer(template, None, "<e>", ["<a>", "<e>"], name="odd-template")
    with pytest.raises(InvalidData, match=reason) as excinfo:
        SpanFinder(tokenizer).find(TABLE["u a u a"])
    assert "odd-template" in excinfo.value.message


def test_a_template_that_writes_the_date_survives_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ day }}" + PLAIN
    tokenizer = make_tokenizer(template, None, "<e>", ["<a>", "<e>"])
    original = tokenizer.apply_chat_template
    day = ["Monday"]
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *a, **k: original(*a, day=day[0], **k))
    finder = SpanFinder(tokenizer)
    finder.find(TABLE["u a"])
    day[0] = "Tuesday"
    text, spans = finder.find(TABLE["u a"])
    assert text.startswith("Tuesday")
    assert [text[span.start : span.end] for span in spans] == ["Hello!<e>"]


PLAIN = (
    "{% for m in messages %}{{ '<a>' + m['role'] + '\n' + m['content'] + '<e>' }}{% endfor %}"
    "{% if add_generation_prompt %}<a>assistant\n{% endif %}"
)


def test_contents_that_look_like_sentinels_or_tokens_confuse_nothing() -> None:
    tricky = say(("u", "xSENTINEL000001x"), ("a", "xSENTINEL000000x <e>"), ("u", "<a>assistant\n"), ("a", "done"))
    text, spans = SpanFinder(make_tokenizer(PLAIN, None, "<e>", ["<a>", "<e>"])).find(tricky)
    assert [text[span.start : span.end] for span in spans] == ["xSENTINEL000000x <e><e>", "done<e>"]


@pytest.mark.parametrize(
    "text, literals, contents, expected",
    [
        pytest.param("<a>x<b>", ["<a>", "<b>"], ["x"], [0, 4], id="as it is"),
        pytest.param("<a>x<b>", ["<a>", "<b>"], [" x\n"], [0, 4], id="trimmed"),
        pytest.param('["a\\"b"]', ['["', '"]'], ['a"b'], [0, 6], id="escaped"),
        pytest.param("x y", ["", " ", ""], ["x ", "y"], [0, 1, 3], id="trimmed, because the literal has the space"),
        pytest.param("aab", ["a", "b"], ["a"], [0, 2], id="once"),
        pytest.param("ab", ["a", "b"], ["x"], None, id="other content"),
        pytest.param("abc", ["a", "b"], [""], None, id="more behind"),
        pytest.param("a", ["a"], [], [0], id="no contents"),
    ],
)
def test_contents_are_put_back_or_not_at_all(
    text: str, literals: list[str], contents: list[str], expected: list[int] | None
) -> None:
    assert align(text, literals, contents) == expected


words = st.text(st.sampled_from(" \nab<>|/é😀"), min_size=1, max_size=8).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CATALOGUE), st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_trained_pieces_are_the_contents_and_a_token(name: str, pairs: list[tuple[str, str]]) -> None:
    conversation = say(*(turn for user, assistant in pairs for turn in (("u", user), ("a", assistant))))
    example = encode(name, conversation)
    assert isinstance(example, Example)
    assert "".join(piece["text"] for piece in pieces(example)) == example.text == render(family(name), conversation)
    text, spans = SpanFinder(family(name)).find(conversation)
    for span, (_, answer) in zip(spans, pairs, strict=True):
        trained_text = text[span.start : span.end]
        stop = next(t for t in ("<|end|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>") if trained_text.endswith(t))
        assert trained_text.removesuffix(stop).removeprefix("<think>\n\n</think>\n\n").strip() == answer.strip()
