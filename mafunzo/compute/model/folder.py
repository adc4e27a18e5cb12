"""A plain Hugging Face folder between steps: its files, the hash of its weights, and its provenance."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mafunzo.errors import Faults, InvalidFile
from mafunzo.tracking.atomic_json import write_json

FACTS_FILE = "mafunzo_model.json"
WEIGHTS = "*.safetensors"
NETWORK_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json", WEIGHTS)
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*.jinja",
)
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def copy_files(folder: Path, patterns: tuple[str, ...], to: Path) -> None:
    """Copy the files of `folder` that match, with the folders that they lie in; links are followed."""
    for pattern in patterns:
        for file in filter(Path.is_file, sorted(folder.glob(pattern))):
            target = to / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def check_weights(folder: Path) -> None:
    """Open every weight file, and check that the index names no missing shard; raises `InvalidFile` with all faults."""
    from safetensors import SafetensorError, safe_open

    faults = Faults()
    for file in sorted(folder.glob(WEIGHTS)):
        try:
            with safe_open(file, framework="np") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            faults.add(f"{file.name} is cut off or damaged: {error}")
    index = folder / "model.safetensors.index.json"
    shards = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else []
    faults.add(*(f"{name} is missing" for name in shards if not (folder / name).exists()))
    faults.require_none(f"{folder}: its weights aren't whole. Fetch the model again.", InvalidFile)


def weights_sha256(folder: Path) -> str:
    """Return the hash of a folder's weights: what `sha256sum *.safetensors | sha256sum` prints there."""
    lines = [f"{sha256(file)}  {file.name}\n" for file in sorted(folder.glob(WEIGHTS), key=lambda file: file.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder that is renamed to `target` atomically when complete; nothing is left of it after an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():  # else another process was faster; its folder is the same
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return `mafunzo_model.json` of a folder, empty where another tool wrote the folder."""
    path = folder / FACTS_FILE
    return read_json(path) if path.exists() else {}


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `mafunzo_model.json` into a folder."""
    write_json(folder / FACTS_FILE, facts, indent=2, ensure_ascii=False)


def drop_keys(path: Path, *keys: str) -> None:
    """Take keys out of a JSON object's file; one without them stays as it is, byte for byte."""
    body = read_json(path)
    remainder = {key: value for key, value in body.items() if key not in keys}
    if len(remainder) < len(body):
        write_json(path, remainder, indent=2, ensure_ascii=False)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `InvalidFile`."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidFile(f"{path} isn't a JSON file that can be read: {error}") from error
    if not isinstance(body, dict):
        raise InvalidFile(f"{path} is {type(body).__name__}, expected a JSON object.")
    return body
