"""The catalogue against the templates that the masks are tested with: no card without one, and each card's facts are true."""

import pytest

from mafunzo.compute.chat.mask import SpanFinder
from mafunzo.compute.chat.template import render
from mafunzo.control.store.catalog import model_cards
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.entities.model_card import ChatTemplate, ModelCard
from mafunzo.errors import InvalidData
from tests.support.chat_families import FAMILIES, FAMILY_OF, family, family_of

SYSTEM, USER, ANSWER = Message("system", "Be brief."), Message("user", "Hi."), Message("assistant", "Hello!")
TOOL = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": {"type": "object"}}}


def test_every_card_has_a_family_and_every_family_here_has_a_card() -> None:
    assert {family_of(card.name) for card in model_cards()} == set(FAMILY_OF.values()) <= set(FAMILIES)


def test_a_card_whose_template_is_not_here_fails() -> None:
    with pytest.raises(AssertionError, match="Add the chat template of Falcon-7B-Instruct"):
        family_of("Falcon-7B-Instruct")


@pytest.mark.parametrize("card", model_cards(), ids=lambda card: card.name)
def test_the_facts_of_a_card_are_what_its_template_does(card: ModelCard) -> None:
    name = family_of(card.name)
    assert card.chat_template == ChatTemplate(
        end_of_turn=end_of_turn(name),
        has_system_role="Be brief." in (text(name, SYSTEM, USER) or ""),
        default_system=default_system(name),
        bos=bos(name),
        has_tools="weather" in (text(name, USER, tools=(TOOL,)) or ""),
    )


def text(name: str, *messages: Message, tools: tuple[dict[str, object], ...] = ()) -> str | None:
    """Return what a family's template writes; None if it refuses."""
    try:
        return render(family(name), Conversation(messages, tools))
    except InvalidData:
        return None


def end_of_turn(name: str) -> str:
    """Return what stands behind the assistant's words in what is trained, which must be one token."""
    whole, spans = SpanFinder(family(name)).find(Conversation((USER, ANSWER)))
    end = whole[spans[0].start : spans[0].end].partition("Hello!")[2]
    assert len(family(name).encode(end, add_special_tokens=False)) == 1
    return end


def default_system(name: str) -> str | None:
    """Return what stands in the system message's place where there is none; None if that is nothing."""
    before, is_rendered, after = (text(name, SYSTEM, USER) or "").partition("Be brief.")
    without = text(name, USER) or ""
    if not is_rendered or not (without.startswith(before) and without.endswith(after)):
        return None
    return without[len(before) : len(without) - len(after)] or None


def bos(name: str) -> str | None:
    """Return the tokenizer's token of the beginning, if the template writes it there; one that begins every turn isn't it."""
    token, whole = family(name).bos_token, text(name, USER, ANSWER) or ""
    return token if token and whole.startswith(token) and whole.count(token) == 1 else None
