"""A worker's HTTP: OpenAI's dialect over one engine, and what a supervisor asks."""
