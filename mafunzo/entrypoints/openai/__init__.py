"""OpenAI's API over http."""
