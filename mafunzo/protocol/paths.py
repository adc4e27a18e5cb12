"""The addresses of OpenAI's API: those that are answered, and what is said of the others."""

from collections.abc import Mapping

ANSWERED = ("POST /v1/chat/completions", "POST /v1/completions", "POST /v1/responses", "GET /v1/models")
_TEXT_ONLY = "text goes in and comes out, nothing else"
_RESPONSES = "/v1/responses took its place, and is answered"
_FILES = "a workspace keeps data sets: `mafunzo data`"
UNSUPPORTED: Mapping[str, str] = {
    "embeddings": "chat models are served, none that embeds text",
    "moderations": "chat models are served, none that moderates text",
    "images": _TEXT_ONLY,
    "audio": _TEXT_ONLY,
    "videos": _TEXT_ONLY,
    "realtime": _TEXT_ONLY,
    "assistants": _RESPONSES,
    "threads": _RESPONSES,
    "conversations": "`previous_response_id` of /v1/responses goes on with a conversation",
    "files": _FILES,
    "uploads": _FILES,
    "vector_stores": "nothing is searched for a model",
    "batches": "`mafunzo batch score` answers a file of rows",
    "fine_tuning": "`mafunzo finetune` trains, as do the Python API and Azure's SDK",
    "evals": "each fine-tuning job evaluates its model: `mafunzo job show`",
    "containers": "no code is run for a model",
}
"""Why what begins with a word isn't offered, or what to use in its place."""


def unknown_address(method: str, path: str) -> str:
    """Return what is said of an address that isn't answered. path: below /v1/."""
    reason = UNSUPPORTED.get(path.strip("/").partition("/")[0])
    told = "doesn't exist here" if reason is None else f"isn't offered: {reason}"
    return f"{method} /v1/{path} {told}. There are {', '.join(ANSWERED)}."
