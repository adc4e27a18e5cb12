"""OpenAI's client: `parse` of an answer and of a call, whole and as a stream."""

import openai
from plan import QUESTION, Plan, show

client = openai.OpenAI()
asked = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
tool = openai.pydantic_function_tool(Plan, name="paint")

answer = client.chat.completions.parse(**asked, response_format=Plan)
call = client.chat.completions.parse(**asked, tools=[tool], tool_choice="required", parallel_tool_calls=False)
with client.chat.completions.stream(**asked, response_format=Plan) as stream:
    streamed = stream.get_final_completion()
with client.chat.completions.stream(**asked, tools=[tool], tool_choice="required") as stream:
    streamed_call = stream.get_final_completion()

said = {"model": "chat", "input": QUESTION}
function = openai.pydantic_responses_function_tool(Plan, name="paint")
response = client.responses.parse(**said, text_format=Plan)
response_call = client.responses.parse(**said, tools=[function], tool_choice="required", parallel_tool_calls=False)
with client.responses.stream(**said, text_format=Plan) as stream:
    streamed_response = stream.get_final_response()
again = client.responses.parse(**said, previous_response_id=response.id, text_format=Plan)
show(
    {
        "parse": answer.choices[0].message.parsed,
        "parse a call": call.choices[0].message.tool_calls[0].function.parsed_arguments,
        "stream": streamed.choices[0].message.parsed,
        "stream a call": streamed_call.choices[0].message.tool_calls[0].function.parsed_arguments,
        "parse a response": response.output_parsed,
        "parse a response's call": response_call.output[0].parsed_arguments,
        "stream a response": streamed_response.output_parsed,
        "go on with a response": again.output_parsed,
    }
)
