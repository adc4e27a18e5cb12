"""LangChain: `with_structured_output` by each of its methods, tools that must be called, and an agent that ends in an object; responses."""

from typing import Any

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_openai import ChatOpenAI
from plan import QUESTION, Plan, show

model = ChatOpenAI(model="chat", temperature=0.7)
responses = ChatOpenAI(model="chat", temperature=0.7, use_responses_api=True)


def agent(strategy: Any) -> Plan:
    return create_agent(model, tools=[], response_format=strategy(Plan)).invoke(
        {"messages": [{"role": "user", "content": QUESTION}]}
    )["structured_response"]


call, *_ = model.bind_tools([Plan], tool_choice="any").invoke(QUESTION).tool_calls
response_call, *_ = responses.bind_tools([Plan], tool_choice="any").invoke(QUESTION).tool_calls
*_, streamed = model.with_structured_output(Plan).stream(QUESTION)
answers = {
    "with_structured_output": model.with_structured_output(Plan).invoke(QUESTION),
    "json_schema": model.with_structured_output(Plan, method="json_schema", strict=True).invoke(QUESTION),
    "function_calling": model.with_structured_output(Plan, method="function_calling").invoke(QUESTION),
    "bind_tools any": Plan(**call["args"]),
    "stream": streamed,
    "agent, provider": agent(ProviderStrategy),
    "agent, tool": agent(ToolStrategy),
    "responses": responses.with_structured_output(Plan).invoke(QUESTION),
    "responses, bind_tools any": Plan(**response_call["args"]),
}
show(answers)
