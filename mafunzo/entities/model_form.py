"""The forms in which a model leaves for other programs."""

from enum import StrEnum


class ModelForm(StrEnum):
    """merged: a Hugging Face folder with whole weights. adapter: peft's adapter alone. gguf: one file for llama.cpp."""

    GGUF = "gguf"
    MERGED = "merged"
    ADAPTER = "adapter"
