"""From a request body to the prompt's token ids, by the chat template."""

import json
from typing import Any

from fastapi import Request

from mafunzo.compute.chat.template import render_ids
from mafunzo.compute.inference.http.service import Service
from mafunzo.entities.conversation import Conversation
from mafunzo.errors import InvalidData, InvalidParameter


async def json_body(request: Request) -> Any:
    """Return a request's body as JSON; raises `InvalidParameter` if it isn't."""
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise InvalidParameter(f"The body isn't JSON: {error}") from error


def rendered(service: Service, conversation: Conversation, add_generation_prompt: bool) -> list[int]:
    """Return a conversation as token ids; raises `InvalidParameter` where the chat template can't render it."""
    try:
        return render_ids(service.loaded.tokenizer, conversation, add_generation_prompt)
    except InvalidData as error:
        raise InvalidParameter(f"messages: {error.message}", param="messages") from error
