"""What a request's replies are held to, if anything: JSON of a schema, calls that must be made, or calls that may be."""

from collections.abc import Mapping, Sequence
from typing import Any

from mafunzo.compute.chat.template import template_source
from mafunzo.compute.inference.grammar import Grammar, GrammarCompiler
from mafunzo.compute.inference.structure import CallForm, call_form, grammar, text_and_calls, with_any_arguments
from mafunzo.errors import InvalidParameter
from mafunzo.protocol.chat import ChatRequest
from mafunzo.protocol.tool_call import OPENING


def request_grammar(request: ChatRequest, tokenizer: Any, grammars: GrammarCompiler) -> Grammar | None:
    """Return what the replies to a request are held to; compiling it may take seconds.

    Raises `InvalidParameter` for a schema that replies can't be held to.
    """
    tools = request.conversation.tools if request.may_call_tools else ()
    if request.answer_schema is None and not tools:
        return None
    form = call_form(template_source(tokenizer, request.conversation), grammars.added_token_id)
    if request.forced_tools:
        text = grammar(None, request.forced_tools, form, request.may_call_several)
        return grammars.compile(text, "tools")
    if request.answer_schema is not None:
        text = grammar(request.answer_schema, tools, form, request.may_call_several)
        return grammars.compile(text, "response_format")
    if request.options.ignore_eos:  # what goes on after the model's own end is held to nothing
        return None
    return _free_calls(tools, form, request.may_call_several, grammars)


def _free_calls(
    tools: Sequence[Mapping[str, Any]], form: CallForm, may_call_several: bool, grammars: GrammarCompiler
) -> Grammar:
    """Return a grammar of text that may have calls. A function whose schema replies can't be held to is called with any
    object, unless it is `strict`: nobody has asked for its call."""
    free_token_ids = grammars.free_token_ids(OPENING)

    def compiled(tools: Sequence[Mapping[str, Any]]) -> Grammar:
        return grammars.compile(text_and_calls(tools, form, may_call_several, free_token_ids), "tools")

    def loosened(tool: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            compiled([tool])
        except InvalidParameter:
            return tool if tool["function"].get("strict") else with_any_arguments(tool)
        return tool

    try:
        return compiled(tools)
    except InvalidParameter:
        return compiled([loosened(tool) for tool in tools])
