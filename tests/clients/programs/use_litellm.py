"""LiteLLM: a class as `response_format`, and a call that must be made."""

import litellm
from plan import QUESTION, Plan, show

asked = {"model": "openai/chat", "messages": [{"role": "user", "content": QUESTION}]}
tool = {
    "type": "function",
    "function": {"name": "paint", "description": "Paint.", "parameters": Plan.model_json_schema()},
}

answer = litellm.completion(**asked, response_format=Plan)
strict = {"type": "json_schema", "json_schema": {"name": "plan", "schema": Plan.model_json_schema(), "strict": True}}
schema = litellm.completion(**asked, response_format=strict)
call = litellm.completion(**asked, tools=[tool], tool_choice="required", parallel_tool_calls=False)
named = {"type": "function", "function": {"name": "paint"}}
chunks = list(litellm.completion(**asked, tools=[tool], tool_choice=named, stream=True))
streamed = litellm.stream_chunk_builder(chunks, messages=asked["messages"])


def arguments(completion: litellm.ModelResponse) -> Plan:
    return Plan.model_validate_json(completion.choices[0].message.tool_calls[0].function.arguments)


show(
    {
        "response_format": Plan.model_validate_json(answer.choices[0].message.content),
        "json_schema": Plan.model_validate_json(schema.choices[0].message.content),
        "tool_choice": arguments(call),
        "stream a call": arguments(streamed),
    }
)
