"""A real endpoint of a tiny model whose weights are random."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mafunzo import Workspace
from mafunzo.compute.components.tiny_model import make
from tests.support.waiting import LIMIT_S

CONTEXT_LENGTH = 16384
"""The tokenizer's few merges make several times the tokens of a real one, and clients write long prompts."""


@contextmanager
def tiny_endpoint(folders: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Yield a workspace with the endpoint `chat`, which a server of its own serves."""
    folder = folders.mktemp("models") / "tiny"
    make("tiny-llama", 1, folder)
    for name, field in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        body = json.loads((folder / name).read_text()) | {field: CONTEXT_LENGTH}
        (folder / name).write_text(json.dumps(body))
    with Workspace(folders.mktemp("home"), port=0) as workspace:
        workspace.models.register(folder, name="tiny")
        workspace.deploy("tiny", endpoint="chat", timeout_s=LIMIT_S)
        yield workspace
        workspace.down()
