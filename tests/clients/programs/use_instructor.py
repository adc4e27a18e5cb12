"""instructor: `from_provider` and `from_openai`, in each of OpenAI's modes."""

import instructor
import openai
from plan import QUESTION, Plan, show

messages = [{"role": "user", "content": QUESTION}]


def answer(mode: instructor.Mode) -> Plan:
    client = instructor.from_openai(openai.OpenAI(), mode=mode)
    return client.chat.completions.create(model="chat", response_model=Plan, messages=messages, max_retries=0)


client = instructor.from_provider("openai/chat")
answers = {"from_provider": client.create(response_model=Plan, messages=messages, max_retries=0)}
for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
    answers[mode.value] = answer(mode)
*_, answers["partial"] = client.create_partial(response_model=Plan, messages=messages, max_retries=0)
show(answers)
