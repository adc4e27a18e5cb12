"""Configurations that were written for other tools, as the arguments of a fine-tuning here.

Each tool is one module: the rules for its keys, and those of its defaults that aren't Mafunzo's, which count where a file says
nothing. What comes out is a list of all keys, each with what becomes of it and why; nothing is left out silently.
"""

from collections.abc import Collection, Mapping
from typing import Any

from mafunzo.entities.config_tool import ConfigTool
from mafunzo.entities.config_translation import axolotl, azure, llamafactory, openai, torchtune, trl
from mafunzo.entities.config_translation.rule import Tool
from mafunzo.entities.config_translation.translation import Entry, Fate, Files, NoFiles, Translation

__all__ = ["TOOLS", "Entry", "Fate", "Files", "Translation", "translate"]

TOOLS: Mapping[ConfigTool, Tool] = {
    ConfigTool.LLAMAFACTORY: llamafactory.TOOL,
    ConfigTool.AXOLOTL: axolotl.TOOL,
    ConfigTool.TRL: trl.TOOL,
    ConfigTool.TORCHTUNE: torchtune.TOOL,
    ConfigTool.OPENAI: openai.TOOL,
    ConfigTool.AZURE: azure.TOOL,
}


def translate(
    tool: ConfigTool,
    body: Mapping[str, Any],
    files: Files | None = None,
    overruled: Collection[str] = (),
    left_out: Collection[str] = (),
) -> Translation:
    """Return what a configuration of `tool` means here.

    body: as its YAML or JSON has it. files: what there is beside it. overruled: arguments that are given beside the file, and
    win over it. left_out: keys that the user gives up. Raises `InvalidParameter` for one of these that the file hasn't.
    """
    return TOOLS[tool].translate(body, files or NoFiles(), overruled, left_out)
