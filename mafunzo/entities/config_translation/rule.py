"""Rules that translate one key of another tool's configuration, and how they are applied to all of them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mafunzo.entities.config_translation.translation import (
    Config,
    Entry,
    Fate,
    Files,
    Outcome,
    Translation,
    changed,
    dropped,
    flat,
    refused,
    taken,
)
from mafunzo.entities.parameters.parameter import TRUTH
from mafunzo.entities.parameters.table import PARAMETERS
from mafunzo.errors import InvalidParameter, did_you_mean

Rule = Callable[[Any, Config], Outcome]
Rules = Mapping[str, Rule]


def take(parameter: str) -> Rule:
    """Return the rule for what `parameter` means here too."""
    return lambda value, config: taken(**{parameter: spelled(parameter, value)})


def drop(reason: str) -> Rule:
    """Return the rule for what changes no result here, whatever its value."""
    return lambda value, config: dropped(reason)


def change(parameter: str, reason: str) -> Rule:
    """Return the rule for what `parameter` means here nearly, and how it differs."""
    return lambda value, config: changed(reason, **{parameter: spelled(parameter, value)})


def only(*harmless: Any, reason: str) -> Rule:
    """Return the rule for what has to have a value that means what is done here in any case; any other one is refused."""

    def rule(value: Any, config: Config) -> Outcome:
        if value not in harmless:
            return refused(reason)
        return taken("as it is here") if value else dropped("asks for nothing")

    return rule


def off(reason: str) -> Rule:
    """Return the rule for what has to be switched off."""
    return only(False, "", "none", "None", 0, reason=reason)


def when(condition: Callable[[Config], bool], rule: Rule, otherwise: str) -> Rule:
    """Return the rule for what counts only where `condition` holds; elsewhere it is dropped for the reason `otherwise`."""
    return lambda value, config: rule(value, config) if condition(config) else dropped(otherwise)


def spelled(parameter: str, value: Any) -> Any:
    """Return a value as the parameter has it: truth values are words, lists are joined, whole numbers of text are numbers."""
    declared = PARAMETERS.get(parameter)
    if isinstance(value, bool) and declared is not None and declared.enum == TRUTH:
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(str(one) for one in value)
    if isinstance(value, str) and declared is not None and declared.type in ("number", "integer"):
        return as_number(value)  # YAML reads 1e-4 as a text
    return value


def as_number(text: str) -> Any:
    """Return a number that is written as a text; any other text as it is, for the check of the parameter to name it."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() and "." not in text and "e" not in text.lower() else number


@dataclass(frozen=True)
class Tool:
    """What is known of another tool's configurations.

    rules: by key, with dots where it is nested. prefixes: by how a key begins. defaults: what the tool takes for what a file
    doesn't say, where that isn't what Mafunzo takes. plain: makes one mapping of a file's content.
    """

    name: str
    rules: Rules
    prefixes: Rules
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    plain: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict

    def translate(
        self, body: Mapping[str, Any], files: Files, overruled: Collection[str], left_out: Collection[str]
    ) -> Translation:
        """Translate every key by its rule, by that of how it begins, or by that of the mapping in which it stands."""
        given = flat(self.plain(body))
        config = Config(given, self.defaults(given), overruled, files)
        _require_given(left_out, config)
        entries = []
        for key, value, is_default in config.items():
            outcome = dropped("left out by --drop") if key in left_out else self._outcome(key, value, config)
            if not is_default or outcome.parameters or outcome.fate is Fate.REFUSED:
                entries.append(Entry(key, value, outcome, is_default))
        return Translation(self.name, tuple(entries))

    def _outcome(self, key: str, value: Any, config: Config) -> Outcome:
        by_prefix = (rule for prefix, rule in self.prefixes.items() if key.startswith(prefix))
        rule = self.rules.get(key) or next(by_prefix, None) or self.rules.get(key.partition(".")[0])
        if rule is None:
            return refused(f"not known here.{did_you_mean(key, list(self.rules))}")
        try:
            return _unless_overruled(rule(value, config), config)
        except (TypeError, ValueError, IndexError, AttributeError):  # a list where a number is expected, and the like
            return refused(f"a {type(value).__name__} can't be read here")


def _require_given(left_out: Collection[str], config: Config) -> None:
    if unknown := [key for key in left_out if key not in config.body]:
        raise InvalidParameter(
            "The file has no such keys to leave out.",
            [f"--drop {key}: it has {', '.join(sorted(config.body)) or 'none'}." for key in unknown],
        )


def _unless_overruled(outcome: Outcome, config: Config) -> Outcome:
    names = {*outcome.parameters, *([outcome.target] if outcome.target else [])}
    if names and names <= config.overruled:
        return dropped(f"{', '.join(sorted(names))} is given beside the file")
    kept = {name: value for name, value in outcome.parameters.items() if name not in config.overruled}
    return Outcome(outcome.fate, kept, outcome.reason, outcome.target)
