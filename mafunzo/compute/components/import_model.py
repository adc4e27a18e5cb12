"""The import step: a base model from a folder, MLflow, the hub or the catalogue, as a Hugging Face folder safe to load."""

if __name__ == "__main__":  # before anything else imports transformers
    from mafunzo.compute.model.quick_start import import_networks

    import_networks()

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from transformers.utils.logging import disable_progress_bar

from mafunzo import settings
from mafunzo.compute.chat.template import render
from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.components import finetune_config
from mafunzo.compute.components.command import Arguments, run
from mafunzo.compute.components.source import Access, fetch
from mafunzo.compute.model.folder import (
    LICENCE_FILES,
    NETWORK_FILES,
    TOKENIZER_FILES,
    check_weights,
    copy_files,
    drop_keys,
    read_facts,
    read_json,
    weights_sha256,
    write_facts,
)
from mafunzo.compute.model.loading import check_folder, load_network, save_network
from mafunzo.compute.model.lora import CONFIG_FILE as ADAPTER_CONFIG
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.entities.model_card import GATED, HubSource, source_from_dict
from mafunzo.errors import InvalidFile, InvalidParameter
from mafunzo.tracking.atomic_json import write_json

logger = logging.getLogger(__name__)

HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")
# Where other tools' MLflow models keep the network and the tokenizer: ours, Azure's, stock transformers flavor.
MLFLOW_NETWORKS = ("data/model", "model", "data/adapter", ".")
MLFLOW_TOKENIZERS = ("data/model", "data/adapter", "data/tokenizer", "components/tokenizer", "model", ".")


@dataclass(frozen=True)
class ImportModelArguments:
    """The import_model step's parameters, each under its own name."""

    huggingface_id: str | None
    trust_remote_code: bool
    base_model_name: str | None
    mirror: str | None


@dataclass(frozen=True)
class Origin:
    """A model before it is copied: its folders and provenance.

    network: a Hugging Face folder, or an adapter's. base: the recorded base of an adapter.
    """

    network: Path
    tokenizer: Path
    name: str
    version: str
    source: str
    licence: str = ""
    revision: str | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] | None = None

    @property
    def is_adapter(self) -> bool:
        return (self.network / ADAPTER_CONFIG).exists() and not (self.network / "config.json").exists()


def import_model(arguments: Arguments) -> None:
    """Write the model that the arguments name into the output `model`."""
    disable_progress_bar()
    environment = settings.load()
    values = ImportModelArguments(**arguments.values)
    trusts_code, mirror = values.trust_remote_code, Path(values.mirror) if values.mirror else None
    access = Access(environment.cache, environment.offline, mirror, trusts_code)
    origins = _origins(arguments.paths, values.huggingface_id, values.base_model_name, access)
    if not origins:
        raise InvalidParameter("No model is named. Pass --mlflow_model_path, --pytorch_model_path or --huggingface_id.")
    out = arguments.outputs["model"]
    out.mkdir(parents=True, exist_ok=True)
    origin = origins[0]
    if origin.is_adapter:
        _merge(origin, origins[1] if len(origins) > 1 else None, access, out)
    else:
        _copy(origin, trusts_code, out)
    copy_files(origin.tokenizer, TOKENIZER_FILES, out)
    _clean(out / "tokenizer_config.json", trusts_code)
    if arguments.paths["finetune_config_path"] is not None:
        finetune_config.apply(arguments.path("finetune_config_path"), out)
    end_of_turn = _complete_generation_config(out, trusts_code)
    facts = _facts(origin, out)
    write_facts(out, {**facts, "end_of_turn": end_of_turn})
    logger.info(
        "Imported %s %s from %s; a turn ends with %s", facts["name"], facts["version"], facts["source"], end_of_turn
    )


def _origins(
    paths: Mapping[str, Path | None], repository: str | None, name: str | None, access: Access
) -> list[Origin]:
    """Return the model to import, and the base from the arguments if it is an adapter. name: where its folder has none."""
    loaders: list[Callable[[], Origin]] = []
    if (pytorch := paths["pytorch_model_path"]) is not None:
        loaders.append(partial(_from_folder, pytorch, name))
    if (mlflow := paths["mlflow_model_path"]) is not None:
        is_card = (mlflow / "card.yml").exists()
        loaders.append(partial(_from_reference, mlflow, access) if is_card else partial(_from_mlflow, mlflow, name))
    if repository is not None:
        loaders.append(partial(_from_hub, repository, access))
    if not loaders:
        return []
    first = loaders[0]()
    if (base := paths["base_model_path"]) is not None:
        loaders.insert(1, partial(_from_folder, base))
    return [first, loaders[1]()] if first.is_adapter and len(loaders) > 1 else [first]


def _from_folder(folder: Path, name: str | None = None) -> Origin:
    facts = read_facts(folder)
    base = _recorded_base(folder)
    identity = facts or base or {}
    return Origin(
        network=folder,
        tokenizer=folder,
        name=str(identity.get("name", name or folder.name)),
        version=str(identity.get("version", "")),
        source=str(facts.get("source", f"folder:{name or folder.name}")),
        licence=str(identity.get("licence", "")),
        card=dict(identity.get("card") or {}),
        base=base,
    )


def _from_mlflow(folder: Path, own_name: str | None = None) -> Origin:
    """Locate network and tokenizer in an MLflow model folder; raises `InvalidFile` if it holds no Hugging Face model."""
    networks = [folder / part for part in MLFLOW_NETWORKS]
    network = next((n for n in networks if (n / "config.json").exists() or (n / ADAPTER_CONFIG).exists()), None)
    if network is None:
        raise InvalidFile(
            f"{folder} holds neither card.yml nor a Hugging Face model (looked in {', '.join(MLFLOW_NETWORKS)})."
        )
    tokenizers = [folder / part for part in MLFLOW_TOKENIZERS]
    tokenizer = next((t for t in tokenizers if (t / "tokenizer_config.json").exists()), network)
    facts = read_facts(folder) or read_facts(network)
    name = str(facts.get("name", own_name or folder.name))
    return Origin(
        network=network,
        tokenizer=tokenizer,
        name=name,
        version=str(facts.get("version", "")),
        source=f"mlflow:{name}",
        licence=str(facts.get("licence", "")),
        card=dict(facts.get("card") or {}),
        base=facts.get("base"),
    )


def _from_reference(folder: Path, access: Access) -> Origin:
    """Fetch the model that a catalogue card names, from the mirror beside the card if there is one."""
    path = folder / "card.yml"
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(card, dict) or not card.get("name"):
        raise InvalidFile(f"{path} isn't a model card.")
    mirror_file = folder / "mirror.txt"
    if mirror_file.exists() and access.mirror is None:
        access = dataclasses.replace(access, mirror=Path(mirror_file.read_text(encoding="utf-8").strip()))
    return _fetch_origin(card, access, str(path))


def _from_hub(name: str, access: Access) -> Origin:
    if not HUB_NAME.match(name):
        raise InvalidParameter(f"huggingface_id is '{name}', expected org/name.")
    card = {"name": name.split("/")[-1], "version": "main", "source": {"kind": "hub", "repo": name}}
    return _fetch_origin(card, access, "huggingface_id")


def _fetch_origin(card: Mapping[str, Any], access: Access, where: str) -> Origin:
    source = source_from_dict(card.get("source"), where)
    if not isinstance(source, HubSource):
        access = dataclasses.replace(access, mirror=None)
    elif GATED in (card.get("tags") or {}).items():
        access = dataclasses.replace(access, consent=consent_of(source, card))
    snapshot = fetch(source, access)
    return Origin(
        network=snapshot.folder,
        tokenizer=snapshot.folder,
        name=str(card["name"]),
        version=str(card.get("version", "main")),
        source=str(source),
        licence=str(card.get("licence") or _licence_on_hub(snapshot.folder)),
        revision=snapshot.revision,
        card=card,
    )


def consent_of(source: HubSource, card: Mapping[str, Any]) -> str:
    """Return what whoever wants a gated model has to do."""
    licence = " ".join(filter(None, (str(card.get("licence") or ""), str(card.get("licence_url") or ""))))
    named = f" ({licence})" if licence else ""
    return f"Accept its licence{named} at https://huggingface.co/{source.repo}, then set HF_TOKEN to a token of that account"


def _licence_on_hub(folder: Path) -> str:
    """Return the licence in the YAML front matter of a repository's README.md, or an empty text."""
    readme = folder / "README.md"
    match = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8"), re.DOTALL) if readme.exists() else None
    head = yaml.safe_load(match[1]) if match else None
    return str(head.get("license", "")) if isinstance(head, dict) else ""


def _recorded_base(folder: Path) -> dict[str, Any] | None:
    """Return the base that the finetune step recorded in a tuned model's folder."""
    arguments = folder / "finetune_args.json"
    base = read_json(arguments).get("base") if arguments.exists() else None
    return dict(base) if isinstance(base, dict) else None


def _copy(origin: Origin, trusts_code: bool, out: Path) -> None:
    config = check_folder(origin.network, trusts_code)
    check_weights(origin.network)
    copy_files(origin.network, NETWORK_FILES + LICENCE_FILES, out)
    if trusts_code and config.get("auto_map"):
        copy_files(origin.network, ("*.py",), out)
    _clean(out / "config.json", trusts_code)


def _merge(adapter: Origin, named_base: Origin | None, access: Access, out: Path) -> None:
    """Write the adapter's base with the LoRA adapter merged into its weights."""
    base = named_base or _fetch_base(adapter, access)
    check_folder(base.network, access.trust_remote_code)
    expected = (adapter.base or {}).get("weights_sha256")
    actual = weights_sha256(base.network)
    if expected and actual != expected:
        raise InvalidFile(
            f"The adapter {adapter.name} was trained on {(adapter.base or {}).get('name', 'another base')} whose weights "
            f"have the hash {expected}; {base.name} has {actual}. Name the base that it was trained on."
        )
    network = load_network(base.network, adapter.network, merge=True, trust_remote_code=access.trust_remote_code)
    save_network(network, out)
    copy_files(base.network, (*LICENCE_FILES, "generation_config.json"), out)
    copy_files(base.tokenizer, TOKENIZER_FILES, out)
    _clean(out / "config.json", access.trust_remote_code)


def _fetch_base(adapter: Origin, access: Access) -> Origin:
    """Fetch the base that an adapter recorded; raises `InvalidFile` if that can't be done from the record."""
    record = adapter.base or {}
    card = record.get("card") or {}
    if not card.get("source") or record.get("base"):
        description = f", {record['name']} ({record.get('source')})" if record.get("name") else ""
        raise InvalidFile(
            f"{adapter.network} holds an adapter without its base{description}. "
            "Name the base as well, with --base_model_path, --mlflow_model_path or --huggingface_id."
        )
    return _fetch_origin(card, access, "the adapter's base")


def _clean(path: Path, trusts_code: bool) -> None:
    """Drop keys that name code or the file's former folder."""
    if path.exists():
        drop_keys(path, "_name_or_path", "_model_name_or_path", "name_or_path", *(() if trusts_code else ("auto_map",)))


def _complete_generation_config(folder: Path, trusts_code: bool) -> str | None:
    """Make the chat template's end-of-turn token a stop token (`eos_token_id`); returns it, if it is a token."""
    tokenizer = load_tokenizer(folder, trusts_code)
    path = folder / "generation_config.json"
    config = read_json(path) if path.exists() else {}
    stop = config.get("eos_token_id", read_json(folder / "config.json").get("eos_token_id"))
    stop_ids = [stop] if isinstance(stop, int) else list(stop or [])
    end_of_turn = _end_of_turn(tokenizer)
    end_tokens = [i for i in (tokenizer.eos_token_id, end_of_turn) if i is not None]
    complete = stop_ids + [i for i in dict.fromkeys(end_tokens) if i not in stop_ids]
    if not complete:
        raise InvalidFile(f"{folder.name}: no token ends a turn; set special_tokens.eos_token in finetune_config_path.")
    if complete != stop_ids:
        logger.info(
            "Generation ends with the tokens %s as well", tokenizer.convert_ids_to_tokens(complete[len(stop_ids) :])
        )
    config["eos_token_id"] = complete if len(complete) > 1 else complete[0]
    write_json(path, config, indent=2, ensure_ascii=False)
    return None if end_of_turn is None else str(tokenizer.convert_ids_to_tokens(end_of_turn))


def _end_of_turn(tokenizer: Any) -> int | None:
    """Return the first special token that the template writes after an assistant's words."""
    answer = "What was answered"
    text = render(tokenizer, Conversation((Message("user", "What was asked"), Message("assistant", answer))))
    suffix = text.rpartition(answer)[2]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids: list[int] = tokenizer(suffix, add_special_tokens=False)["input_ids"]
    return next((i for i in ids if i in special), None)


def _facts(origin: Origin, out: Path) -> dict[str, Any]:
    return {
        "name": origin.name,
        "version": origin.version,
        "source": origin.source,
        "revision": origin.revision,
        "licence": origin.licence,
        "card": dict(origin.card),
        "weights_sha256": weights_sha256(out),
        "base": dict(origin.base) if origin.base else None,
    }


if __name__ == "__main__":
    run(__file__, import_model)
