"""The arguments of a fine-tuning: a YAML file of parameters, ours or another tool's, and what is given beside it."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mafunzo.entities.config_tool import ConfigTool
from mafunzo.entrypoints.terminal.output import print_table
from mafunzo.entrypoints.terminal.words import pairs
from mafunzo.errors import InvalidFile, InvalidParameter

if TYPE_CHECKING:
    from mafunzo.entities.config_translation import Translation

DATA = {"train_file_path": "train", "validation_file_path": "validation", "test_file_path": "test"}
"""What the pipeline calls the rows, and what `finetune` does."""


def arguments_of(
    config: Sequence[str], options: Mapping[str, Any], tool: ConfigTool | None, left_out: Sequence[str], as_json: bool
) -> dict[str, Any]:
    """Return the arguments of a fine-tuning: those of a file, over them words, over them options.

    tool: whose configuration the file is, None for ours. What becomes of another tool's keys is printed, on stderr where
    programs read the output; `left_out` are keys to leave out. Raises `InvalidParameter` and `InvalidFile`.
    """
    files = [word for word in config if "=" not in word]
    if len(files) > 1:
        raise InvalidParameter(f"Two configuration files are given: {', '.join(files)}. Keep one.")
    given = pairs([word for word in config if "=" in word])
    given |= {name: value for name, value in options.items() if value is not None}
    given = {DATA.get(name, name): value for name, value in given.items()}
    if tool is not None or left_out:
        return _translated(files, tool, given, left_out, as_json) | given
    body = _read(Path(files[0])) if files else {}
    return {DATA.get(name, name): _from(files[0], name, value) for name, value in body.items()} | given


def _translated(
    files: Sequence[str], tool: ConfigTool | None, given: Mapping[str, Any], left_out: Sequence[str], as_json: bool
) -> dict[str, Any]:
    if tool is None:
        raise InvalidParameter("--drop leaves out keys of another tool's file. Name the tool: --from TOOL.")
    if not files:
        raise InvalidParameter(f"--from {tool} needs the file: mafunzo finetune --from {tool} FILE")
    from mafunzo.entities.config_translation import (
        translate,  # the table of parameters, which other commands don't need
    )

    [file] = files
    translation = translate(tool, _read(Path(file)), _Folder(Path(file).parent), set(given), left_out)
    _print(translation, sys.stderr if as_json else sys.stdout)
    translation.require_honoured(file)
    return {name: _from(file, name, value) for name, value in translation.parameters.items()}


def _print(translation: "Translation", to: Any) -> None:
    rows = [
        (entry.key, entry.given, entry.outcome.fate, entry.becomes, entry.outcome.reason)
        for entry in translation.entries
    ]
    print_table((f"{translation.tool}'s key", "value", "", "here", "why"), rows, "The file has no keys.", to)
    print(file=to)


class _Folder:
    """What lies in a configuration's folder (`config_translation.Files`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def exists(self, path: str) -> bool:
        return (self.folder / Path(path).expanduser()).exists()

    def read(self, path: str) -> Any:
        try:
            return json.loads((self.folder / path).read_text(encoding="utf-8"))
        except OSError:
            return None
        except ValueError as error:
            raise InvalidFile(f"{self.folder / path} isn't JSON: {error}.") from error


def _read(file: Path) -> dict[str, Any]:
    """Return the content of a YAML or JSON file."""
    import yaml

    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidFile(f"{file} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{file} isn't UTF-8: {error.reason} at byte {error.start}.") from error
    except yaml.YAMLError as error:
        raise InvalidFile(f"{file} isn't YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(body, dict):
        raise InvalidFile(f"{file} holds no parameters, expected lines like `num_train_epochs: 1`.")
    return {str(name): value for name, value in body.items()}


def _from(file: str, name: str, value: Any) -> Any:
    """Return a relative path as it is meant in a file: from the file's own folder."""
    if not isinstance(value, str) or Path(value).expanduser().is_absolute():
        return value
    folder = Path(file).parent
    is_data = name in ("train", "validation", "test") or name.endswith(("_file_path", "_mltable_path"))
    is_other = name in ("model", "evaluation_config", "deepspeed") or name.endswith("_path")
    return str(folder / value) if is_data or (is_other and (folder / value).exists()) else value
