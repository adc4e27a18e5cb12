"""Mafunzo: fine-tune a chat model, prove that it got better, register it, serve it."""

__version__ = "0.1.0"
