"""Data validation: every row is checked, with all its faults, none is dropped silently. Deduplication: `fingerprint`."""

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Protocol, TypeVar

from mafunzo.dataset.files import Indices, RawRow, Source
from mafunzo.dataset.formats import Shape, is_plain, shape
from mafunzo.entities.conversation import ROLES, TRAINING_FIELDS, Conversation, Message, call_arguments
from mafunzo.errors import Faults, InvalidData

SHOWN_FAULTS = 20
SHOWN_ALIKE = 3
"""Of one file and kind, more bad rows than these are told in one line."""
SHOWN_RANGES = 10
_FIELDS = frozenset(("role", "content", "tool_calls", "name", "tool_call_id"))
_FUNCTION_FIELDS = ("name", "arguments", "parameters")
_CALL_FIELDS = frozenset((*_FUNCTION_FIELDS, "id", "type", "index", "description", "strict"))
_TEXT_FIELDS = frozenset(("text", "value", "message", "msg", "body", "answer", "response"))
_DETAIL_FIELDS = ("train_detail", "training_detail")
_TRAINING_KEYS = frozenset((*TRAINING_FIELDS, *_DETAIL_FIELDS))
_CALL_MARK = re.compile(
    r"<\|?/?(tool|function|invoke|python)|\[/?(TOOL|FUNCTION)_?CALLS?\]|^Action:|^\s*\[\w+\(.*\)\]\s*$",
    re.IGNORECASE | re.MULTILINE,
)
"""What models are made to write before a call, unless it is JSON alone."""
_DETAILS = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (
            r"(isn't text|aren't a JSON object|with a name and arguments): .*?(?=; message |; 'tools' |; a tool |$)",
            r"\1",
        ),
        (r"\bmessage \d+, tool call \d+", "a tool call"),
        (r"\bmessage \d+", "a message"),
        (r"(the tool call) '.*?', which", r"\1, which"),
        (r" \((token \d+ of \d+|(line \d+, )?column \d+|[^()]*, row \d+)\)", ""),
        (r"\bbyte 0x\w+ at position \d+", "a byte of another encoding"),
        (r"\bhas \d+ cells, expected \d+", "has more or fewer cells, not as many"),
    )
)
"""What differs between equal reasons of rows, and what stands in its place in their kind."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SIMILAR_ROLES = {
    "ai": "assistant",
    "customer": "user",
    "agent": "assistant",
    "prompter": "user",
    "instruction": "system",
}


@dataclass(frozen=True)
class Row:
    """A good row. `notes` name what is unusual but usable."""

    file: str
    row: int
    conversation: Conversation
    format: str
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.file}, row {self.row}"


@dataclass(frozen=True)
class BadRow:
    """A row that can't be used, and all the reasons."""

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"

    @property
    def kind(self) -> str:
        """The reason without the details of this row."""
        return kind_of(self.reason)


class NotedRow(Protocol):
    """A good row, whatever else is known of it."""

    @property
    def format(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


_GoodRow = TypeVar("_GoodRow", bound=NotedRow)


@dataclass
class RowCounts:
    """What is counted of rows as they are read; `notes` count what is unusual."""

    rows_read: int = 0
    bad: list[BadRow] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def good_rows(self, rows: "Iterable[_GoodRow | BadRow]") -> Iterator[_GoodRow]:
        """Count rows as they pass, and yield those that can be used."""
        for row in rows:
            self.rows_read += 1
            if isinstance(row, BadRow):
                self.bad.append(row)
            else:
                self.formats[row.format] += 1
                self.notes.update(row.notes)
                yield row


@dataclass
class Report(RowCounts):
    """The result of checking one source.

    fingerprints: of each row in order, empty for one that can't be used. equal_rows: those that equal an earlier row.
    equal_prompts: those that don't, but ask what an earlier one asks.
    """

    fingerprints: list[bytes] = field(default_factory=list)
    equal_rows: int = 0
    equal_prompts: int = 0

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows can't be used, by kind of reason, most first."""
        return dict(Counter(row.kind for row in self.bad).most_common())

    @property
    def rows_kept(self) -> int:
        return self.rows_read - len(self.bad)


def check_source(source: Source) -> Report:
    """Check every row of a source, without a tokenizer. Raises `InvalidFile` where a file as a whole can't be read."""
    report = Report()
    rows: set[bytes] = set()
    prompts: set[bytes] = set()
    for row in report.good_rows(read_conversations(source)):
        own, prompt = fingerprints(row.conversation)
        report.fingerprints += [b""] * (report.rows_read - 1 - len(report.fingerprints)) + [own]
        report.equal_rows += own in rows
        report.equal_prompts += own not in rows and prompt in prompts
        rows.add(own)
        prompts.add(prompt)
    report.fingerprints += [b""] * (report.rows_read - len(report.fingerprints))
    return report


def read_conversations(source: Source, indices: Indices | None = None) -> Iterator[Row | BadRow]:
    """Yield each row, or those at `indices`, as a conversation or with the reasons why it isn't one."""
    for raw in source.rows(indices):
        yield check_row(raw)


def refuse(bad: Sequence[BadRow]) -> None:
    """Raise `InvalidData` that counts all bad rows and names them, those of one kind in one line; nothing without any."""
    if not bad:
        return
    lines = list(_lines(bad))
    faults = lines[:SHOWN_FAULTS]
    if len(lines) > SHOWN_FAULTS:
        faults.append(f"... and {len(lines) - SHOWN_FAULTS} more")
    rows = "1 row" if len(bad) == 1 else f"{len(bad)} rows"
    raise InvalidData(f"{rows} can't be used. Correct them, or pass on_bad_row skip to leave them out.", faults)


def _lines(bad: Sequence[BadRow]) -> Iterator[str]:
    groups: dict[tuple[str, str], list[BadRow]] = {}
    for row in bad:
        groups.setdefault((row.file, row.kind), []).append(row)
    for (file, kind), rows in groups.items():
        if len(rows) <= SHOWN_ALIKE:
            yield from map(str, rows)
        else:
            reason = rows[0].reason if len({row.reason for row in rows}) == 1 else kind
            yield f"{file}, {len(rows)} rows ({_ranges(sorted(row.row for row in rows))}): {reason}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text, neighbours as a range."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    texts = [" to ".join(map(str, bounds)) for bounds in ranges[:SHOWN_RANGES]]
    return ", ".join(texts) + (" ..." if len(ranges) > SHOWN_RANGES else "")


def kind_of(reason: str) -> str:
    """Return a reason without the details of its row (numbers, places, what the row says): equal kinds are counted together."""
    for pattern, text in _DETAILS:
        reason = pattern.sub(text, reason)
    return "; ".join(dict.fromkeys(reason.split("; ")))


def check_row(raw: RawRow) -> Row | BadRow:
    """Return a raw row as a conversation, or with every reason why it isn't one."""
    parts = Shape("", [], fault=raw.fault) if raw.body is None else shape(raw.body)
    faults = Faults()
    conversation = checked(parts, faults)
    if not faults:
        faults.add(*_faults_between(conversation.messages))
    if faults:
        return BadRow(raw.file, raw.row, "; ".join(faults))
    notes = (*parts.notes, *_notes(conversation.messages))
    return Row(raw.file, raw.row, conversation, parts.format, notes)


def checked(parts: Shape, faults: Faults) -> Conversation:
    """Return a row's parts as a conversation; what is wrong with a message or a tool by itself is added to `faults`."""
    faults.add(parts.fault)
    messages = (_message(i, body, faults) for i, body in enumerate(parts.messages, 1))
    return Conversation(tuple(m for m in messages if m is not None), _tools(parts.tools, faults))


def fingerprint(conversation: Conversation) -> bytes:
    """Return a 16-byte hash for deduplication, the same for conversations that differ in white space only."""
    return fingerprints(conversation)[0]


def fingerprints(conversation: Conversation) -> tuple[bytes, bytes]:
    """Return the hash of a conversation, and that of its prompt: what stands before the last answer."""
    whole = hashlib.blake2b(digest_size=16)
    prompt = whole
    for message in conversation.messages:
        if message.role == "assistant":
            prompt = whole.copy()
        part = (message.role, " ".join((message.content or "").split()), *_call_texts(message))
        whole.update(f"[{', '.join(map(_quoted, part))}]".encode("ascii"))  # as JSON, without what an encoder costs
    return whole.digest(), prompt.digest()


def _call_texts(message: Message) -> list[str]:
    """Return what a message calls, without ids: they differ between equal conversations."""
    if not message.tool_calls:
        return []
    functions = [call.get("function") or {} for call in message.tool_calls]
    return [json.dumps([f.get("name"), call_arguments(f.get("arguments"))], sort_keys=True) for f in functions]


def _message(number: int, body: Any, faults: Faults) -> Message | None:
    if is_plain(body) and _is_sound(body["content"]):
        return Message(body["role"], body["content"])
    where = f"message {number}"
    if not isinstance(body, Mapping):
        faults.add(f"{where} isn't an object with role and content")
        return None
    role = body.get("role")
    if role is None:
        others = ", ".join(key for key in body if key not in _FIELDS)
        faults.add(
            f"{where} has no role" + (f" (it has: {others}). Rename its keys to role and content" if others else "")
        )
        return None
    if role == "tool_call":
        faults.add(f"{where} is a tool call, but not JSON with a name and arguments: {str(body.get('content'))[:60]}")
        return None
    if role not in ROLES:
        faults.add(f"{where} has the role '{role}', expected one of {', '.join(ROLES)}{_suggest(str(role))}")
        return None
    own_faults = Faults()
    calls = _calls(where, body, own_faults)
    content = _content(where, role, body, bool(body.get("tool_calls")), own_faults)
    if not _TRAINING_KEYS.isdisjoint(body):
        own_faults.add(*_training_faults(where, role, body))
    if own_faults:
        faults.add(*own_faults)
        return None
    extra = {key: value for key, value in body.items() if key not in _FIELDS and value is not None}
    return Message(role, content, calls, body.get("name"), body.get("tool_call_id"), extra)


def _is_sound(content: str) -> bool:
    """Return whether a text can be used as it is."""
    return bool(content) and not content.isspace() and (content.isascii() or not _LONE_SURROGATE.search(content))


def _training_faults(where: str, role: str, body: Mapping[str, Any]) -> Iterator[str]:
    """Check the fields that exclude a turn; on a turn that is never trained they may say so."""
    values = []
    for name in TRAINING_FIELDS:
        value = body.get(name)
        is_weight = name == "weight"
        if value is None:
            continue
        if value in (0, 1) and isinstance(value, bool) is not is_weight and (role == "assistant" or not value):
            values.append(bool(value))
            continue
        expected = "0 or 1" if is_weight else "true or false"
        shown = repr(value) if is_weight else json.dumps(value, default=str)
        yield f"{where} has the {name} {shown}, expected {expected} on a message of the assistant"
    if len(set(values)) > 1:
        fields = ", ".join(f"{name} {json.dumps(body[name], default=str)}" for name in TRAINING_FIELDS if name in body)
        yield f"{where} has {fields}, which contradict one another"
    for name in _DETAIL_FIELDS:
        if body.get(name):
            yield f"{where} has {name}, but a turn is trained whole. Split it, or exclude it with train false"


def _content(where: str, role: str, body: Mapping[str, Any], has_calls: bool, faults: Faults) -> str | None:
    content = body.get("content")
    if isinstance(content, list):
        texts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(text, str) for text in texts):
            kinds = {str(part.get("type") if isinstance(part, Mapping) else part) for part in content} - {"text"}
            names = ", ".join(sorted(kinds)) or "parts without text"
            faults.add(f"{where} has content that isn't text ({names}); chat models here read text only")
            return None
        content = "".join(str(text) for text in texts)
    if content is None:
        others = ", ".join(key for key, value in body.items() if key in _TEXT_FIELDS and isinstance(value, str))
        if not has_calls:
            hint = f" (it has: {others}). Rename its text to content" if others else ""
            faults.add(f"{where} ('{role}') has no content{hint}")
        return None
    if not isinstance(content, str):
        faults.add(f"{where} ('{role}') has content that isn't text: {json.dumps(content, default=str)[:60]}")
        return None
    if not content.strip() and not has_calls and role != "tool":
        faults.add(f"{where} ('{role}') is empty")
    if not content.isascii() and _LONE_SURROGATE.search(content):
        faults.add(f"{where} ('{role}') holds half of a character (a lone surrogate), which no encoding can write")
    return content


def _calls(where: str, body: Mapping[str, Any], faults: Faults) -> tuple[dict[str, Any], ...]:
    calls = body.get("tool_calls") or []
    if not isinstance(calls, list) or (calls and body.get("role") != "assistant"):
        faults.add(f"{where} has tool_calls that aren't a list on a message of the assistant")
        return ()
    for number, call in enumerate(calls, 1):
        if fault := _call_fault(call):
            faults.add(f"{where}, tool call {number} {fault}")
    return () if faults else tuple(_with_json(_call(call)) for call in calls)


def _call_fault(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return "has no function with a name"
    arguments = _call(call)["function"].get("arguments")
    others = ", ".join(key for key in function if key not in _CALL_FIELDS)
    if arguments is None and others:
        return f"has no arguments (it has: {others}). Rename its key to arguments"
    if not _is_object(arguments):
        shown = arguments if isinstance(arguments, str) else json.dumps(arguments, default=str)
        return f"has arguments that aren't a JSON object: {shown[:60]}"
    return ""


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call in OpenAI's form. Llama calls the arguments `parameters`."""
    function = dict(call.get("function", {key: call[key] for key in _FUNCTION_FIELDS if key in call}))
    if "arguments" not in function and "parameters" in function:
        function["arguments"] = function.pop("parameters")
    attributes = {key: value for key, value in call.items() if key not in ("function", *_FUNCTION_FIELDS)}
    return {"type": "function", **attributes, "function": function}


def _with_json(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call with its arguments as JSON, `{}` for none in whichever spelling."""
    arguments = call["function"].get("arguments")
    if isinstance(arguments, str) and call_arguments(arguments):
        return call
    text = json.dumps(call_arguments(arguments), ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


def _is_object(arguments: Any) -> bool:
    try:
        return isinstance(call_arguments(arguments), dict)
    except ValueError:
        return False


def _tools(tools: Any, faults: Faults) -> tuple[dict[str, Any], ...]:
    if tools is None or tools == "" or tools == []:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        faults.add("'tools' isn't a list of tool definitions")
        return ()
    if not all(isinstance((tool.get("function") or tool).get("name"), str) for tool in tools):
        faults.add("a tool definition has no name")
        return ()
    return tuple(dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)} for tool in tools)


def _faults_between(messages: Sequence[Message]) -> Iterator[str]:
    if not messages:
        yield "'messages' is empty"
        return
    if len(messages) == 1:
        yield f"has one message only ('{messages[0].role}'), expected a question and an answer"
    elif not any(message.role == "assistant" for message in messages):
        yield "has no turn of the assistant, so there is nothing to learn from it"
    elif not any(message.is_trained for message in messages):
        answers = [message for message in messages if message.role == "assistant"]
        fields = [name for name in TRAINING_FIELDS if any(not message.extra.get(name, True) for message in answers)]
        shown = " or ".join(f"{name} {'0' if name == 'weight' else 'false'}" for name in fields)
        yield f"has {shown} on every turn of the assistant, so there is nothing to learn from it"
    yield from _calls_without_partner(messages)


def _calls_without_partner(messages: Sequence[Message]) -> Iterator[str]:
    call_ids: list[Any] = []
    for number, message in enumerate(messages, 1):
        call_ids += [call.get("id") for call in message.tool_calls]
        if message.role != "tool":
            continue
        is_answer = bool(call_ids) and (None in call_ids or message.tool_call_id in (None, *call_ids))
        if is_answer or any(_calls_in_text(earlier) for earlier in messages[: number - 1]):
            continue
        if call_ids:
            yield f"message {number} answers the tool call '{message.tool_call_id}', which doesn't stand before it"
        else:
            yield f"message {number} is the result of a tool, but no tool call stands before it"


def _calls_in_text(message: Message) -> bool:
    """Return whether a turn of the assistant writes a call as text."""
    text = message.content if message.role == "assistant" and not message.tool_calls else None
    if not text:
        return False
    is_json = any(
        f"{quote}name{quote}" in text and re.search(f"{quote}(arguments|parameters){quote}", text) for quote in "\"'"
    )
    return is_json or _CALL_MARK.search(text) is not None


def _notes(messages: Sequence[Message]) -> Iterator[str]:
    if messages[0].role == "assistant":
        yield "begins with a turn of the assistant, before any question"
    if not all(message.is_trained for message in messages if message.role == "assistant"):
        yield "excludes a turn of the assistant from training"
    if messages[-1].role != "assistant":
        yield f"ends on a turn of the {messages[-1].role}, which isn't trained"
    pairs = {(left.role, right.role) for left, right in pairwise(messages)}
    for role in ("user", "assistant"):
        if (role, role) in pairs:
            yield f"has several turns of the {role} in a row"
    if any(message.role in ("system", "developer") for message in messages[1:]):
        yield "has a system message that isn't the first message"


def _suggest(role: str) -> str:
    suggestion = _SIMILAR_ROLES.get(role) or next(iter(difflib.get_close_matches(role, ROLES, n=1, cutoff=0.6)), None)
    return f" (did you mean '{suggestion}'?)" if suggestion else ""
