"""The one writer of JSON files: a reader sees the old file or the whole new one, whenever the writer is cut off.

A draft beside the file is written first and then renamed onto it, which POSIX does atomically.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any


def write_json(
    path: Path,
    body: Any,
    *,
    indent: int | None = None,
    ensure_ascii: bool = True,
    sort_keys: bool = False,
    mode: int = 0o666,
    is_durable: bool = False,
) -> None:
    """Write a JSON file: one line for programs; with `indent` for people too, with a newline at the end.

    mode: permissions, less the umask. is_durable: it survives a power cut once this returns.
    """
    text = json.dumps(body, indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys)
    write_text(path, text if indent is None else f"{text}\n", mode=mode, is_durable=is_durable)


def write_text(path: Path, text: str, *, mode: int = 0o666, is_durable: bool = False) -> None:
    """Write any text as `write_json` does; an error leaves the file as it was."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if is_durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename, say."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
