"""A tiny model on disk, made once a session."""

from pathlib import Path

import pytest

from mafunzo.compute.components.tiny_model import make


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: random weights, byte-level tokenizer, a Llama-like chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    make("tiny-llama", 1, folder)
    return folder
