"""OpenAI's JSON."""
