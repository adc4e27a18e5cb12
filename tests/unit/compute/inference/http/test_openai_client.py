"""OpenAI's own client over a worker's application: what it makes of structured answers and calls."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import BaseModel, Field

from mafunzo.compute.inference.http.app import make_app

if TYPE_CHECKING:
    import openai

TALK: Any = [{"role": "user", "content": "How are you today?"}]


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Step(BaseModel):
    colour: Colour
    count: int = Field(ge=0, le=9)


class Plan(BaseModel):
    """What is to be painted, in order."""

    steps: list[Step] = Field(min_length=1, max_length=2)
    is_last: bool | None


@pytest.fixture
def run(service) -> "Callable[[Callable[[openai.AsyncOpenAI], Awaitable[Any]]], Any]":
    """Return a function that runs work with a client."""

    def run_work(work: "Callable[[openai.AsyncOpenAI], Awaitable[Any]]") -> Any:
        import openai

        async def main() -> Any:
            http = httpx.AsyncClient(transport=httpx.ASGITransport(make_app(service), raise_app_exceptions=False))
            async with openai.AsyncOpenAI(base_url="http://worker/v1", api_key="none", http_client=http) as client:
                return await work(client)

        return asyncio.run(main())

    return run_work


def test_parse_gives_an_object_of_the_class(run):
    async def work(client: "openai.AsyncOpenAI") -> Any:
        return await client.chat.completions.parse(
            model="chat", messages=TALK, response_format=Plan, max_tokens=400, seed=1
        )

    plan = run(work).choices[0].message.parsed
    assert isinstance(plan, Plan) and 1 <= len(plan.steps) <= 2


def test_a_stream_gives_an_object_of_the_class(run):
    async def work(client: "openai.AsyncOpenAI") -> Any:
        options: Any = {"model": "chat", "messages": TALK, "response_format": Plan, "max_tokens": 400, "seed": 2}
        async with client.chat.completions.stream(**options) as stream:
            return await stream.get_final_completion()

    assert isinstance(run(work).choices[0].message.parsed, Plan)


def test_parse_gives_the_arguments_of_a_forced_call(run):
    import openai

    async def work(client: "openai.AsyncOpenAI") -> Any:
        tool = openai.pydantic_function_tool(Plan, name="paint")
        return await client.chat.completions.parse(
            model="chat", messages=TALK, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=400
        )

    [call] = run(work).choices[0].message.tool_calls
    assert call.function.name == "paint" and isinstance(call.function.parsed_arguments, Plan)


def test_an_answer_that_was_cut_short_is_told_as_such(run):
    import openai

    async def work(client: "openai.AsyncOpenAI") -> Any:
        await client.chat.completions.parse(model="chat", messages=TALK, response_format=Plan, max_tokens=3)

    with pytest.raises(openai.LengthFinishReasonError):
        run(work)
