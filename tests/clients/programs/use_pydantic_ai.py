"""pydantic-ai: `output_type` by each of its modes, a choice of types, a function tool on the way, a stream, and responses."""

import asyncio
from typing import Any, Literal

from plan import QUESTION, Plan, show
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

model = OpenAIChatModel("chat")


class Other(Plan):
    """What is to be painted next year."""


def count_walls(floor: Literal["ground", "first"]) -> int:
    """Return how many walls a floor has."""
    return 4


def answer(output_type: Any, **more: Any) -> Any:
    return Agent(model, output_type=output_type, **more).run_sync(QUESTION).output


async def streamed(model: Any = model) -> Any:
    async with Agent(model, output_type=Plan).run_stream(QUESTION) as result:
        return await result.get_output()


responses = OpenAIResponsesModel("chat")
show(
    {
        "output_type": answer(Plan),
        "tool": answer(ToolOutput(Plan, strict=True)),
        "native": answer(NativeOutput(Plan)),
        "one of two": answer([Plan, Other]),
        "after a tool": answer(Plan, tools=[count_walls]),
        "stream": asyncio.run(streamed()),
        "responses": Agent(responses, output_type=Plan, tools=[count_walls]).run_sync(QUESTION).output,
        "responses, native": Agent(responses, output_type=NativeOutput(Plan)).run_sync(QUESTION).output,
        "responses, stream": asyncio.run(streamed(responses)),
    }
)
