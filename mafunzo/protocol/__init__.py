"""OpenAI's API as JSON: chat and text completions, streaming chunks, tool calls, errors."""
