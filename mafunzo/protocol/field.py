"""Request validation: every field of the JSON is checked, all faults are reported at once, `param` names the first.

As at OpenAI, an unknown field is refused rather than ignored, and null means that a field is absent.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from mafunzo.errors import Faults, InvalidParameter

T = TypeVar("T")

Unsupported = Mapping[str, tuple[Collection[Any], str]]
"""Fields that aren't supported, by name: the values that change nothing, and why others are refused."""


class Fields:
    """The fields of one JSON object. Reading a field makes it known; `check` refuses the others."""

    def __init__(self, body: object, prefix: str = "") -> None:
        if not isinstance(body, Mapping):
            raise InvalidParameter(f"{prefix or 'The body'} must be a JSON object.", param=prefix or None)
        self._body = body
        self._prefix = f"{prefix}." if prefix else ""
        self._known_names: set[str] = set()
        self._faults = Faults()
        self._param = ""

    def raw(self, name: str) -> Any:
        """Return a field's value unchecked, None if absent."""
        self._known_names.add(name)
        return self._body.get(name)

    def number(self, name: str, low: float, high: float, default: float) -> float:
        """Return a number from `low` to `high`."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self._wrong(name, value, "a number", default)
        if not low <= value <= high:
            return self._wrong(name, value, f"{low:g} to {high:g}", default)
        return float(value)

    def integer(self, name: str, low: int | None = None, high: int | None = None) -> int | None:
        """Return a whole number within the limits, None if absent."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            return self._wrong(name, value, "an integer", None)
        if (low is not None and value < low) or (high is not None and value > high):
            expected = f"at least {low}" if high is None else f"{low} to {high}"
            return self._wrong(name, value, expected, None)
        return value

    def boolean(self, name: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self.raw(name)
        if value is not None and not isinstance(value, bool):
            return self._wrong(name, value, "true or false", default)
        return default if value is None else value

    def text(self, name: str) -> str | None:
        """Return a text, None if absent."""
        value = self.raw(name)
        if value is not None and not isinstance(value, str):
            return self._wrong(name, value, "a string", None)
        return value

    def required_text(self, name: str) -> str:
        """Return a text that must be there, and not be blank."""
        value = self.raw(name)
        if not isinstance(value, str) or not value.strip():
            return self._wrong(name, value, "a string that isn't empty", "")
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object, empty if absent."""
        value = self.raw(name)
        if value is not None and not isinstance(value, Mapping):
            return self._wrong(name, value, "a JSON object", {})
        return value or {}

    def strings(self, name: str, most: int, most_characters: int | None = None) -> tuple[str, ...]:
        """Return up to `most` strings, from one string or a list, each of so many characters at most."""
        value = self.raw(name)
        if value is None:
            return ()
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(item, str) for item in texts):
            return self._wrong(name, value, "a string or a list of strings", ())
        if len(texts) > most:
            return self._wrong(name, f"a list of {len(texts)}", f"at most {most} strings", ())
        if most_characters is not None and any(len(text) > most_characters for text in texts):
            return self._wrong(name, max(texts, key=len), f"at most {most_characters} characters a string", ())
        return tuple(texts)

    def within(self, name: str, body: object, read: Callable[["Fields"], T], default: T) -> T:
        """Return what `read` makes of the fields of `body`, an object in this one; their faults are recorded here."""
        try:
            fields = Fields(body, self._prefix + name)
            value = read(fields)
            fields.check()
        except InvalidParameter as error:
            self._param = self._param or error.param or self._prefix + name
            self._faults.add(error.message)
            return default
        return value

    def refuse(self, unsupported: Unsupported) -> None:
        """Refuse any value of these fields but those that change nothing."""
        for name, (neutral_values, why) in unsupported.items():
            value = self.raw(name)
            if value is not None and value not in neutral_values:
                self.fault(name, f"{self._prefix}{name} is {shown(value)}: {why}")

    def ignore(self, *names: str) -> None:
        """Accept fields that have no effect on the answer."""
        self._known_names.update(names)

    def wrong(self, name: str, value: object, expected: str) -> None:
        """Record that a value isn't what was expected."""
        self._wrong(name, value, expected, None)

    def fault(self, name: str, message: str) -> None:
        """Record a fault."""
        self._param = self._param or self._prefix + name
        self._faults.add(message)

    def check(self) -> None:
        """Raise `InvalidParameter` with all faults, unknown fields among them."""
        for name in self._body:
            if name not in self._known_names:
                self.fault(str(name), f"Unrecognized request argument supplied: {self._prefix}{name}.")
        if self._faults:
            raise InvalidParameter(" ".join(self._faults), param=self._param)

    def _wrong(self, name: str, value: object, expected: str, default: T) -> T:
        self.fault(name, f"{self._prefix}{name} is {shown(value)}, expected {expected}.")
        return default


def shown(value: object) -> str:
    """Return a value as an error shows it, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
