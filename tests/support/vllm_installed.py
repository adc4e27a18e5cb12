"""A machine that has GPUs and vLLM, as far as anybody looks: their commands and their package, with the stand-in behind."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REGISTRY = """
raise ImportError("whoever looks what vLLM computes doesn't import it")
_TEXT_GENERATION_MODELS = {
    # [Decoder-only]
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "Phi3ForCausalLM": ("phi3", "Phi3ForCausalLM"),
}
_MULTIMODAL_MODELS: dict = {"Gemma3ForConditionalGeneration": ("gemma3_mm", "Gemma3ForConditionalGeneration")}
_EMBEDDING_MODELS = {"BertModel": ("bert", "BertEmbeddingModel")}
"""

ONLY_HEALTHY = """
import os, signal, socket, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"])
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[sys.argv.index("--uds") + 1])
listener.listen()
print(child.pid, os.environ["VLLM_API_KEY"], os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], file=open("told", "w"), flush=True)
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
    connection.close()
"""
"""What `vllm serve` is to whoever only starts it, watches it and ends it; a process of its own doesn't end by SIGTERM."""


def install_package(folder: Path, registry: str = REGISTRY) -> Path:
    """Write vLLM's package as `pip install` would, as far as it is read; return what is to be on the search path."""
    models = folder / "vllm" / "model_executor" / "models"
    models.mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text("raise ImportError('vllm')\n")
    (models / "registry.py").write_text(registry)
    (folder / "vllm-0.32.0.dist-info").mkdir()
    (folder / "vllm-0.32.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    return folder


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: int = 2) -> None:
    """Have this process, and those that it starts, see vLLM and so many GPUs."""
    package, commands = install_package(folder / "packages"), folder / "bin"
    commands.mkdir()
    names = "\\n".join(["NVIDIA H200"] * gpus)
    _write(commands / "nvidia-smi", f"#!/bin/sh\nprintf '{names}\\n'\n")
    _write(
        commands / "vllm", f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.support.vllm_stand_in "$@"\n'
    )
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    monkeypatch.syspath_prepend(package)


def _write(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)
