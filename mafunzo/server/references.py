"""The ways of writing a reference that the ways in bring, for every process in which people write some."""

from mafunzo.entities.reference import add_syntax


def add_syntaxes() -> None:
    """Let `parse_reference` understand the addresses of every way in that is installed."""
    from mafunzo.wire.azureml.reference import parse_reference

    add_syntax(parse_reference)
