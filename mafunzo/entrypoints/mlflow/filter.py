"""MLflow's searches: `name LIKE 'chat%' AND tags.stage = 'ready'`, an order, and pages."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from mafunzo.entrypoints.http.listing import shown
from mafunzo.errors import InvalidParameter

Facts = dict[str, str | int]
"""What is known of a thing that is searched, by key; a tag's key begins with `tags.`."""
T = TypeVar("T")
DEFAULT_PAGE = 100
AFTER = "after:"
"""Begins the token of a page that begins after a name; that of another is a number."""

_VALUE = r"'[^']*'|\"[^\"]*\"|-?\d+"
_CLAUSE = re.compile(
    rf"""\s* ((?P<kind>tags?|attributes?)\.)? (?P<key>`[^`]+`|"[^"]+"|\w[\w.]*) \s*
    (?P<operator>!=|>=|<=|=|>|<|(NOT\s+)?IN|I?LIKE)
    \s* (?P<value>{_VALUE}|\(\s*({_VALUE})(\s*,\s*({_VALUE}))*\s*\)) \s* (?P<end>AND\b|$)""",
    re.IGNORECASE | re.VERBOSE,
)
_ORDER = re.compile(r"\s*(?P<key>\w+)\s*(?P<direction>ASC|DESC)?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Clause:
    """One comparison; `values` are several with IN only."""

    key: str
    operator: str
    values: tuple[str, ...]

    def holds(self, facts: Facts) -> bool:
        """Return whether it is true of these facts; a missing tag fails."""
        fact = facts.get(self.key)
        return fact is not None and _COMPARISONS[self.operator](fact, self.values)


def parse_filter(text: str, keys: Sequence[str]) -> list[Clause]:
    """Return the comparisons of a filter; `keys` are those besides tags. Raises `InvalidParameter`."""
    clauses, at, rest = [], 0, text.strip()
    while at < len(rest):
        match = _CLAUSE.match(rest, at)
        if match is None:
            raise InvalidParameter(
                f"The filter \"{text}\" can't be read from '{rest[at:]}'. Write comparisons joined by AND, such as "
                "name = 'chat' AND tags.stage = 'ready'.",
                param="filter",
            )
        clauses.append(_clause(match, keys))
        at = match.end()
    return clauses


def select(
    things: Sequence[T], facts_of: Callable[[T], Facts], keys: Sequence[str], search: Mapping[str, Any]
) -> tuple[list[T], str]:
    """Return a page of a search's matches, and the token of the next page (pagination); raises `InvalidParameter`."""
    clauses = parse_filter(str(search.get("filter") or ""), keys)
    known = shown(things, lambda thing: (thing, facts_of(thing)))
    matches = [(thing, facts) for thing, facts in known if all(clause.holds(facts) for clause in clauses)]
    for order in reversed(_texts(search.get("order_by"))):
        match = _ORDER.match(order)
        key = {"timestamp": "last_updated_timestamp"}.get(match["key"], match["key"]) if match else ""
        if match is None or key not in keys:
            raise InvalidParameter(f"order_by is '{order}', expected one of {', '.join(keys)}, with ASC or DESC.")
        matches.sort(key=lambda pair: pair[1][key], reverse=(match["direction"] or "").upper() == "DESC")
    begin, most = _number(search, "page_token", 0), _number(search, "max_results", DEFAULT_PAGE)
    end = begin + most
    return [thing for thing, _ in matches[begin:end]], str(end) if end < len(matches) else ""


def named_in(search: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """Return the one name that a search's filter asks for, or None where it may be several; raises `InvalidParameter`."""
    clauses = parse_filter(str(search.get("filter") or ""), keys)
    return next((clause.values[0] for clause in clauses if (clause.key, clause.operator) == ("name", "=")), None)


def position_in(search: Mapping[str, Any]) -> str | None:
    """Return after what a page begins of a search that is in the order of names; None for one in another order."""
    token, orders = str(search.get("page_token") or ""), _texts(search.get("order_by"))
    if any(not re.fullmatch(r"\s*name(\s+asc)?\s*", order, re.IGNORECASE) for order in orders):
        return None
    return "" if not token else token.removeprefix(AFTER) if token.startswith(AFTER) else None


def scrolled(
    things: Iterable[T],
    facts_of: Callable[[T], Facts],
    position_of: Callable[[T], str],
    keys: Sequence[str],
    search: Mapping[str, Any],
) -> tuple[list[T], str]:
    """Return a page of the matches among things, which are read as they are needed, and the token of the next page.

    The token says what the page ends with (keyset pagination), as `position_of` names it.
    """
    clauses = parse_filter(str(search.get("filter") or ""), keys)
    known = shown(things, lambda thing: (thing, facts_of(thing)))
    matches = (thing for thing, facts in known if all(clause.holds(facts) for clause in clauses))
    most = _number(search, "max_results", DEFAULT_PAGE)
    page = list(islice(matches, most + 1))
    return page[:most], f"{AFTER}{position_of(page[most - 1])}" if len(page) > most > 0 else ""


def _clause(match: re.Match[str], keys: Sequence[str]) -> Clause:
    key = match["key"].strip('`"')
    if (match["kind"] or "").lower().startswith("tag"):
        key = f"tags.{key}"
    elif key not in keys:
        raise InvalidParameter(f"The filter asks for '{key}', expected {', '.join(keys)} or tags.NAME.", param="filter")
    operator = re.sub(r"\s+", " ", match["operator"].upper())
    values = [value[1:-1] if value[0] in "'\"" else value for value in re.findall(_VALUE, match["value"])]
    return Clause(key, operator, tuple(values))


def _number(search: Mapping[str, Any], name: str, default: int) -> int:
    text = str(search.get(name) or default)
    if not text.isdigit():
        raise InvalidParameter(f"{name} is '{text}', expected a number, 0 or more.", param=name)
    return int(text)


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _like(fact: str | int, pattern: str, flags: int = 0) -> bool:
    parts = (".*" if part == "%" else "." if part == "_" else re.escape(part) for part in re.split("([%_])", pattern))
    return re.fullmatch("".join(parts), str(fact), flags | re.DOTALL) is not None


def _compared(fact: str | int, value: str) -> int:
    """Return -1, 0 or 1; numbers are compared as numbers."""
    if isinstance(fact, int):
        if not value.lstrip("-").isdigit():
            raise InvalidParameter(f"The filter compares a number with '{value}', expected a number.", param="filter")
        return (fact > int(value)) - (fact < int(value))
    return (fact > value) - (fact < value)


_COMPARISONS: Mapping[str, Callable[[str | int, Sequence[str]], bool]] = {
    "=": lambda fact, values: _compared(fact, values[0]) == 0,
    "!=": lambda fact, values: _compared(fact, values[0]) != 0,
    ">": lambda fact, values: _compared(fact, values[0]) > 0,
    ">=": lambda fact, values: _compared(fact, values[0]) >= 0,
    "<": lambda fact, values: _compared(fact, values[0]) < 0,
    "<=": lambda fact, values: _compared(fact, values[0]) <= 0,
    "IN": lambda fact, values: any(_compared(fact, value) == 0 for value in values),
    "NOT IN": lambda fact, values: all(_compared(fact, value) != 0 for value in values),
    "LIKE": lambda fact, values: _like(fact, values[0]),
    "ILIKE": lambda fact, values: _like(fact, values[0], re.IGNORECASE),
}
