"""What every client asks for: an object of nested classes, whose every value is bounded, so that a random model soon ends it."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

QUESTION = "What is to be painted, and in which order?"


class Step(BaseModel):
    """A coat of paint."""

    colour: Literal["red", "green"]
    coats: int = Field(ge=1, le=9, description="how often")


class Plan(BaseModel):
    """What is to be painted, in order."""

    steps: list[Step] = Field(min_length=1, max_length=2)
    is_last: bool | None


def show(answers: Mapping[str, Any]) -> None:
    """Print the objects that the client made, by the way in which it was asked for them."""
    print(json.dumps({way: plan.model_dump(mode="json") for way, plan in answers.items()}))
