"""OpenAI's own SDK over the Responses API of a real endpoint, whose model has random weights."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from mafunzo import Workspace
from mafunzo.control.launcher.server_process import find_server
from mafunzo.control.workspace.endpoints import EndpointHandle
from tests.support.tiny_endpoint import tiny_endpoint
from tests.support.waiting import until


class Sum(BaseModel):
    """Adds two numbers."""

    is_right: bool
    sign: bool | None


TOOL: Any = openai.pydantic_responses_function_tool(Sum, name="check")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with tiny_endpoint(tmp_path_factory) as opened:
        yield opened


@pytest.fixture
def endpoint(workspace: Workspace) -> EndpointHandle:
    return workspace.endpoints.get("chat")


@pytest.fixture
def client(endpoint: EndpointHandle) -> openai.OpenAI:
    return client_of(endpoint)


def client_of(endpoint: EndpointHandle) -> openai.OpenAI:
    return openai.OpenAI(base_url=endpoint.url, api_key=endpoint.keys[0], max_retries=0)


def stop_server(workspace: Workspace) -> None:
    """Stop the server as an operator does; its workers go on, and the next request of a handle starts another."""
    server = find_server(workspace.home)
    assert server is not None
    os.kill(server.pid, signal.SIGTERM)
    until(lambda: workspace.home.holder() is None)


def said(endpoint: EndpointHandle, *messages: tuple[str, str]) -> str:
    """What a chat completion answers to that."""
    bodies = [{"role": role, "content": content} for role, content in messages]
    return endpoint.chat(bodies, temperature=0, max_tokens=8)


def test_a_response_says_what_a_chat_completion_says(client: openai.OpenAI, endpoint: EndpointHandle) -> None:
    made = client.responses.create(
        model="chat", instructions="Be brief.", input="Hi", temperature=0, max_output_tokens=8
    )
    assert made.output_text == said(endpoint, ("system", "Be brief."), ("user", "Hi"))
    assert made.usage is not None and made.usage.output_tokens == 8
    assert made.status == "incomplete" and made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"


def test_a_stream_adds_up_to_the_response_that_is_stored(client: openai.OpenAI) -> None:
    asked: Any = {"model": "chat", "input": "Hi", "temperature": 0, "max_output_tokens": 8}
    with client.responses.stream(**asked) as stream:
        told = list(stream)
    assert [event.sequence_number for event in told] == list(range(len(told)))
    final = told[-1].response  # type: ignore[union-attr]
    deltas = [event.delta for event in told if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == client.responses.create(**asked).output_text
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_a_response_goes_on_with_the_one_before_also_after_a_restart(
    client: openai.OpenAI, endpoint: EndpointHandle, workspace: Workspace
) -> None:
    asked: Any = {"model": "chat", "temperature": 0, "max_output_tokens": 8}
    first = client.responses.create(input="Hi", **asked)
    stop_server(workspace)
    client = client_of(endpoint)
    second = client.responses.create(input="And?", previous_response_id=first.id, **asked)
    assert second.previous_response_id == first.id
    assert second.output_text == said(endpoint, ("user", "Hi"), ("assistant", first.output_text), ("user", "And?"))
    [item] = client.responses.input_items.list(second.id)
    assert item.type == "message" and item.content[0].text == "And?"  # type: ignore[union-attr]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(input="And?", previous_response_id=second.id, **asked)
    assert caught.value.code == "previous_response_not_found"


def test_parse_gives_an_object_of_the_class_whole_and_as_a_stream(client: openai.OpenAI) -> None:
    whole = client.responses.parse(model="chat", input="Is it right?", text_format=Sum)
    assert isinstance(whole.output_parsed, Sum)
    with client.responses.stream(model="chat", input="Is it right?", text_format=Sum) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Sum)


def test_functions_are_called_and_their_outputs_are_taken(client: openai.OpenAI) -> None:
    asked: Any = {"model": "chat", "tools": [TOOL]}
    choice: Any = {"type": "function", "name": "check"}
    made = client.responses.parse(input="Is 1 + 1 = 2?", tool_choice=choice, **asked)
    [call] = made.output
    assert call.type == "function_call" and isinstance(call.parsed_arguments, Sum)
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "yes"}
    after = client.responses.create(
        input=[output], previous_response_id=made.id, tool_choice="none", max_output_tokens=8, **asked
    )
    again: Any = [{"role": "user", "content": "Is 1 + 1 = 2?"}, *made.output, output]
    client.responses.create(input=again, tool_choice="none", max_output_tokens=8, **asked)
    assert after.output[0].type == "message"
    with client.responses.stream(input="Is 1 + 1 = 2?", tool_choice=choice, **asked) as stream:
        told = list(stream)
    kinds = [event.type for event in told]
    assert kinds.index("response.function_call_arguments.delta") < kinds.index("response.function_call_arguments.done")
    assert told[-1].type == "response.completed" and isinstance(told[-1].response.output[0].parsed_arguments, Sum)  # type: ignore[union-attr]


def test_the_model_s_own_refusals_come_through(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="chat", input="long " * 20000)
    assert caught.value.code == "context_length_exceeded"
