"""Runs in MLflow's JSON, https://mlflow.org/docs/latest/rest-api.html."""

from collections.abc import Mapping
from typing import Any

USER_TAG = "mlflow.user"


def with_user(run: Mapping[str, Any], user: str) -> dict[str, Any]:
    """Return a request for a new run with the caller as its user: clients send the user name of their own machine."""
    tags = run.get("tags")
    others = [tag for tag in tags if _key(tag) != USER_TAG] if isinstance(tags, list) else []
    return {**run, "user_id": user, "tags": [*others, {"key": USER_TAG, "value": user}]}


def _key(tag: Any) -> Any:
    return tag.get("key") if isinstance(tag, Mapping) else None
