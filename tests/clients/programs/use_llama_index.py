"""LlamaIndex: structured answers and programs of a server that speaks OpenAI's dialect."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
from plan import QUESTION, Plan, show

model = OpenAILike(
    model="chat",
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
    context_window=16384,
)
by_calls = model.model_copy(update={"should_use_structured_outputs": False})
messages = [ChatMessage(role="user", content=QUESTION)]
prompt = PromptTemplate(QUESTION)
program = FunctionCallingProgram.from_defaults(output_cls=Plan, llm=model, prompt_template_str=QUESTION)
*_, streamed = model.stream_structured_predict(Plan, prompt)
show(
    {
        "structured_predict": model.structured_predict(Plan, prompt),
        "structured_predict by calls": by_calls.structured_predict(Plan, prompt),
        "as_structured_llm": model.as_structured_llm(Plan).chat(messages).raw,
        "program": program(),
        "stream": streamed,
    }
)
