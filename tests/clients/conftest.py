"""A real endpoint of a tiny model whose weights are random."""

from collections.abc import Iterator

import pytest

from tests.support.tiny_endpoint import tiny_endpoint


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables in which OpenAI's clients look for where to go; the model is called `chat`."""
    with tiny_endpoint(tmp_path_factory) as workspace:
        handle = workspace.endpoints.get("chat")
        yield {"OPENAI_BASE_URL": handle.url, "OPENAI_API_KEY": handle.keys[0]}
