"""Writes a model as other programs read it: `python -m mafunzo.compute.components.export_model --help`.

    merged    a Hugging Face folder of whole weights
    adapter   peft's adapter alone, with the tokenizer
    gguf      one file for llama.cpp, beside the licence

What was written is read again, by the loaders of transformers and peft, and must give the log-probabilities of what was
registered, over some conversations in the model's own chat template; else nothing is left.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils.logging import disable_progress_bar

from mafunzo.compute.chat.template import render_ids
from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.inference.loading import ModelFolders, find_model
from mafunzo.compute.model.folder import LICENCE_FILES, TOKENIZER_FILES, copy_files, new_folder, read_facts
from mafunzo.compute.model.gguf_file import require_exact, split_name, write_gguf
from mafunzo.compute.model.loading import load_network, save_network
from mafunzo.compute.model.lora import CONFIG_FILE, WEIGHTS_FILE
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.entities.model_form import ModelForm
from mafunzo.errors import FailedError, MafunzoError, NotSupported

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""How far a log-probability (nats) may be from that of what was registered, both computed in float32."""
TEXTS = (
    ("Hello! How are you today?", "I am fine, thank you. It is 2,024 and 17:30 here."),
    ("Jambo, habari ya leo? 你好 — naïve café 🙂", "Nzuri sana!\n\n    - one\n\t- two   three"),
)


def main() -> None:
    """Write a model; exit with the code of what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, required=True, help="a registered model's folder, or a Hugging Face folder"
    )
    parser.add_argument("--base", type=Path, default=None, help="the model that an adapter was trained on")
    parser.add_argument("--to", choices=list(ModelForm), required=True)
    parser.add_argument("--name", required=True, help="what the model is called")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    disable_progress_bar()
    try:
        export(arguments.model, arguments.base, arguments.to, arguments.name, arguments.output)
    except MafunzoError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def export(model: Path, base: Path | None, to: str, name: str, output: Path) -> None:
    """Write a model into the new folder `output`, and check it.

    Raises `NotSupported` for what has no such form, `FailedError` where what was written computes otherwise.
    """
    folders = find_model(model, base)
    tokenizer = load_tokenizer(folders.tokenizer)
    if to == "adapter" and folders.adapter is None:
        raise NotSupported(f"{name} has whole weights and no adapter. Use --to merged or gguf.")
    network = load_network(folders.network, folders.adapter, merge=folders.adapter is not None)
    with new_folder(output) as folder:
        if to == "gguf":
            licence = str(read_facts(model).get("licence") or read_facts(folders.network).get("licence") or "")
            require_exact(network, tokenizer)
            write_gguf(network, tokenizer, folder / f"{name}.gguf", name, licence)
        elif to == "merged":
            save_network(network, folder)
            copy_files(folders.tokenizer, TOKENIZER_FILES, folder)
        else:
            copy_files(folders.tokenizer, (CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES), folder)
        copy_files(model, LICENCE_FILES, folder)
        _require_same(network, _read_again(folder, to, name, folders), tokenizer, name)
        if to != "gguf":
            _require_same_tokens(tokenizer, load_tokenizer(folder), name)
        elif split_name(tokenizer) == "gpt-2":  # what transformers takes the tokenizer of any GGUF file for
            _require_same_tokens(tokenizer, AutoTokenizer.from_pretrained(folder, gguf_file=f"{name}.gguf"), name)


def _read_again(folder: Path, to: str, name: str, folders: ModelFolders) -> Any:
    """Return the network of what was written, by the loader that its readers use."""
    if to == "gguf":
        options: dict[str, Any] = {"gguf_file": f"{name}.gguf", "quantization_config": GgufConfig(dequantize=True)}
        try:
            return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, **options).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            last_line = str(error).strip().splitlines()[-1]
            raise NotSupported(
                f"transformers can't read {name}.gguf again: {last_line} Use --to merged instead."
            ) from error
    if to == "merged":
        return load_network(folder, dtype=torch.float32)
    base = load_network(folders.network, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(folder)).eval()


def _require_same(network: Any, other: Any, tokenizer: Any, name: str) -> None:
    """Raise `FailedError` where two networks give other log-probabilities for the same conversations."""
    farthest = 0.0
    network.float()
    for question, answer in TEXTS:
        messages = (Message("user", question), Message("assistant", answer))
        ids = torch.tensor([render_ids(tokenizer, Conversation(messages))])
        farthest = max(farthest, float((_logprobs(network, ids) - _logprobs(other, ids)).abs().max()))
    if not farthest <= TOLERANCE:
        raise FailedError(
            f"What was written of {name} doesn't compute as the model does: log-probabilities are up to {farthest:.4f} apart, "
            f"allowed are {TOLERANCE:g}. Nothing was kept."
        )
    logger.info("Read again, log-probabilities are at most %.6f apart", farthest)


def _require_same_tokens(tokenizer: Any, other: Any, name: str) -> None:
    for text in (text for pair in TEXTS for text in pair):
        ids, others = (one(text, add_special_tokens=False)["input_ids"] for one in (tokenizer, other))
        if ids != others:
            raise FailedError(f"What was written of {name} splits '{text}' into other tokens. Nothing was kept.")


@torch.inference_mode()
def _logprobs(network: Any, ids: Tensor) -> Tensor:
    """Return the log-probability of each token after the first, in float32."""
    logits: Tensor = network(input_ids=ids).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, ids[0, 1:, None])


if __name__ == "__main__":
    main()
