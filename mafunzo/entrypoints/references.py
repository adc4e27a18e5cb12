"""The ways of writing a reference that the ways in bring, for every process in which people write some."""

from importlib.util import find_spec

from mafunzo.entities.reference import add_syntax

AZURE = "mafunzo.entrypoints.azure"
MLFLOW = "mafunzo.entrypoints.mlflow"
"""The ways in that may be absent, by package."""


def add_syntaxes() -> None:
    """Let `parse_reference` understand the addresses of every way in that is installed."""
    if find_spec(AZURE):
        from mafunzo.entrypoints.azure.reference import parse_reference

        add_syntax(parse_reference)
