"""Runs in MLflow's JSON, https://mlflow.org/docs/latest/rest-api.html."""

from collections.abc import Mapping
from typing import Any

USER_TAG = "mlflow.user"


def made_by(asked: Mapping[str, Any], user: str) -> dict[str, Any]:
    """Return what asks for a new run, with its user being who asks: clients say whom their own machine knows them as."""
    tags = asked.get("tags")
    others = [tag for tag in tags if _key(tag) != USER_TAG] if isinstance(tags, list) else []
    return {**asked, "user_id": user, "tags": [*others, {"key": USER_TAG, "value": user}]}


def _key(tag: Any) -> Any:
    return tag.get("key") if isinstance(tag, Mapping) else None
