"""A real endpoint of a tiny model whose weights are random."""

import json
from collections.abc import Iterator

import pytest

from mafunzo import Workspace
from mafunzo.compute.components.tiny_model import make
from tests.support.waiting import LIMIT_S

CONTEXT_LENGTH = 16384
"""The tokenizer's few merges make several times the tokens of a real one, and clients write long prompts."""


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables in which OpenAI's clients look for where to go; the model is called `chat`."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make("tiny-llama", 1, folder)
    for name, field in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        body = json.loads((folder / name).read_text()) | {field: CONTEXT_LENGTH}
        (folder / name).write_text(json.dumps(body))
    with Workspace(tmp_path_factory.mktemp("home"), port=0) as workspace:
        workspace.models.register(folder, name="tiny")
        handle = workspace.deploy("tiny", endpoint="chat", timeout_s=LIMIT_S)
        yield {"OPENAI_BASE_URL": handle.url, "OPENAI_API_KEY": handle.keys[0]}
        workspace.down()
