"""The tools whose configurations can be read (`config_translation`)."""

from enum import StrEnum


class ConfigTool(StrEnum):
    """A tool by its name on the command line."""

    LLAMAFACTORY = "llamafactory"
    AXOLOTL = "axolotl"
    TRL = "trl"
    TORCHTUNE = "torchtune"
    OPENAI = "openai"
    AZURE = "azure"
