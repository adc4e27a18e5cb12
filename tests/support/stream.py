"""What the SDK shows of a job while it runs."""

import contextlib
import io
from typing import Any


def streamed(client: Any, name: str) -> str:
    """Return all that `jobs.stream` has printed when it ends."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        client.jobs.stream(name)
    return told.getvalue()
