"""A worker's HTTP: OpenAI's chat API over one engine, and routes for the supervisor (health, metrics, verification)."""
