"""A component's shell command with its values put in, quoted so that the shell sees exactly the value.

`${{inputs.x}}` and `${{outputs.y}}` are placeholders; `$[[--x ${{inputs.x}}]]` is left out unless all inputs in it were
given. Authors put placeholders bare, in '...' or in "...": bash's quoting rules (bash manual, 3.1.2) are followed up to each.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from mafunzo.errors import Faults

PLACEHOLDER = re.compile(r"\$\{\{\s*([^{}]*?)\s*\}\}")
REFERENCE = re.compile(r"(inputs|outputs)\.([A-Za-z_][\w.-]*)")
OPTIONAL_BLOCK = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
HERE_DOCUMENT = re.compile(r"<<-?\s*['\"\\]?[A-Za-z_]")
NUMBER = re.compile(r"-?\d+")

Context = Literal["bare", "single", "double", "ansi", "arithmetic", "backtick", "here-document", "comment"]

LITERAL: tuple[Context, ...] = ("single", "comment", "here-document")
"""The contexts in which a backslash is like any character."""
ENDS: Mapping[Context, str] = {"single": "'", "comment": "\n", "ansi": "'", "double": '"', "backtick": "`"}
NESTED: tuple[tuple[str, Context], ...] = (("$((", "arithmetic"), ("$(", "bare"), ("`", "backtick"), ('"', "double"))
OPENINGS: tuple[tuple[str, Context], ...] = (*NESTED, ("$'", "ansi"), ("'", "single"))
"""What opens a context, also inside of double quotes, backticks and arithmetic; and what does where no quotes are."""
QUOTES: Mapping[Context, Callable[[str], str]] = {
    "bare": lambda value: "'" + value.replace("'", "'\\''") + "'",
    "single": lambda value: value.replace("'", "'\\''"),
    "double": lambda value: re.sub(r'([\\"$`])', r"\\\1", value),
    "ansi": lambda value: re.sub(r"([\\'])", r"\\\1", value),
    "arithmetic": lambda value: value,
    "comment": lambda value: "",
}
"""How a value is written in each context in which it can be."""


@dataclass(frozen=True)
class Placeholder:
    """One use of a value. `kind` is inputs or outputs; is_optional: it stands in a `$[[...]]`."""

    kind: str
    name: str
    is_optional: bool


def placeholders(command: str) -> list[Placeholder]:
    """Return the uses of values in a command; raises `InvalidParameter` for a placeholder of another form."""
    blocks = [match.span() for match in OPTIONAL_BLOCK.finditer(command)]
    uses, faults = [], Faults()
    for match in PLACEHOLDER.finditer(command):
        reference = REFERENCE.fullmatch(match[1])
        if reference is None:
            faults.add(f"its command has {match[0]}, expected ${{{{inputs.<name>}}}} or ${{{{outputs.<name>}}}}.")
            continue
        is_optional = any(start <= match.start() < end for start, end in blocks)
        uses.append(Placeholder(reference[1], reference[2], is_optional))
    faults.require_none("The command can't be used.")
    return uses


def filled_text(text: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """Return a text that no shell reads, such as an environment variable's value, with all values in it.

    An input that isn't given is empty.
    """
    values = {"inputs": inputs, "outputs": outputs}

    def value(match: re.Match[str]) -> str:
        reference = REFERENCE.fullmatch(match[1])
        return values[reference[1]].get(reference[2], "") if reference else match[0]

    return PLACEHOLDER.sub(value, text)


def substitute(command: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """Return the command for bash with all values in it.

    Raises `InvalidParameter` if a value is missing, or stands where no quoting is safe (backticks, here-documents).
    """
    values = {f"inputs.{name}": value for name, value in inputs.items()}
    values |= {f"outputs.{name}": value for name, value in outputs.items()}
    chosen = OPTIONAL_BLOCK.sub(
        lambda block: block[1] if all(match[1] in values for match in PLACEHOLDER.finditer(block[1])) else "", command
    )
    faults = Faults()
    pieces: list[str] = []
    for piece in _pieces(chosen):
        if isinstance(piece, str):
            pieces.append(piece)
            continue
        reference, context = piece
        value = values.get(reference)
        if value is None:
            faults.add(f"its command uses {reference}, which wasn't given.")
        elif fault := _quoting_fault(value, context):
            faults.add(f"its command has ${{{{{reference}}}}} {fault}")
        else:
            pieces.append(QUOTES[context](value))
    faults.require_none("The command can't be run.")
    return "".join(pieces)


def _quoting_fault(value: str, context: Context) -> str:
    """Return why a value can't be written in a context; an empty text if it can."""
    if "\0" in value:
        return "with a null character, which no command line can hold."
    if context == "arithmetic" and not NUMBER.fullmatch(value):
        return f"in arithmetic: '{value}' isn't a whole number."
    if context not in QUOTES:
        return f"in a {context}, where it can't be quoted safely. Put it into a variable first: value=${{{{...}}}}"
    return ""


def _pieces(command: str) -> Iterator[str | tuple[str, Context]]:
    """Split a command into text and (reference, context) pairs, following bash's quotes, `$(...)` and `$((...))`."""
    contexts: list[Context] = ["bare"]
    parentheses = [0]  # open ones in each context, so that a context ends at its own
    position = start = 0
    while position < len(command):
        match = PLACEHOLDER.match(command, position)
        if match:
            yield command[start:position]
            yield match[1], "backtick" if "backtick" in contexts else contexts[-1]
            position = start = match.end()
            continue
        position += _step(command, position, contexts, parentheses)
    yield command[start:]


def _step(command: str, at: int, contexts: list[Context], parentheses: list[int]) -> int:
    """Move over one lexical unit, change the context as it asks, and return its length."""
    char, context = command[at], contexts[-1]

    def enter(new: Context, length: int) -> int:
        contexts.append(new)
        parentheses.append(0)
        return length

    def leave(length: int) -> int:
        contexts.pop()
        parentheses.pop()
        return length

    if char == "\\" and context not in LITERAL:
        return 2
    if char == ENDS.get(context):
        return leave(1)
    if context in LITERAL or context == "ansi":
        return 1
    for opening, new in OPENINGS if context == "bare" else NESTED:
        if command.startswith(opening, at):
            return enter(new, len(opening))
    if context in ("double", "backtick"):
        return 1
    if context == "bare" and char == "#" and (at == 0 or command[at - 1] in " \t\n;&|("):
        return enter("comment", 1)
    if context == "bare" and HERE_DOCUMENT.match(command, at) and not command.startswith("<<<", max(0, at - 1)):
        return enter("here-document", 2)
    if char == "(":
        parentheses[-1] += 1
    elif char == ")" and parentheses[-1]:
        parentheses[-1] -= 1
    elif context == "arithmetic" and command.startswith("))", at):
        return leave(2)
    elif context == "bare" and char == ")" and len(contexts) > 1:
        return leave(1)
    return 1
