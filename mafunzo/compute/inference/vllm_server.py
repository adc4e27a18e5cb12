"""vLLM's own server as a child of a worker: started, waited for, watched, ended.

It listens on a socket in a folder that only its user can enter, not on a port: `--api-key` protects `/v1` alone, and the
routes beside it would answer every user of the machine. It has a key all the same, in its environment (a command line is
everybody's to read), in place of one that the user's environment may have.
"""

import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from mafunzo.entities.engine import GPU_SHARE, VLLM_EXTRA
from mafunzo.errors import NotSupported, WorkerFailed

logger = logging.getLogger(__name__)

COMMAND = "vllm"
BASE = "base"
"""What the server calls the network itself, as opposed to adapters on it."""
GRACE_S = 4.0
POLL_S = 0.1
MAX_LOGPROBS = 20
MAX_LORAS = 8
"""Different adapters in one batch; requests for others wait. Each has its place in the GPU's memory from the start."""
MAX_CPU_LORAS = 64


@dataclass(frozen=True)
class VllmModel:
    """What the server is to serve. max_model_len: in tokens. lora_rank: the greatest of an adapter; 0: none can be loaded."""

    network: Path
    tokenizer: Path
    dtype: str
    max_model_len: int
    max_batch: int
    lora_rank: int

    def argv(self, socket: Path) -> list[str]:
        """Return the arguments of `vllm serve`. No default of the model's folder may decide how tokens are sampled."""
        options: dict[str, object] = {
            "uds": socket,
            "served-model-name": BASE,
            "tokenizer": self.tokenizer,
            "dtype": self.dtype,
            "max-model-len": self.max_model_len,
            "max-num-seqs": self.max_batch,
            "gpu-memory-utilization": GPU_SHARE,
            "max-logprobs": MAX_LOGPROBS,
            "logprobs-mode": "raw_logprobs",
            "generation-config": "vllm",
            "structured-outputs-config.backend": "guidance",
        }
        flags = ["--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
        if self.lora_rank:
            flags.append("--enable-lora")
            options |= {"max-lora-rank": self.lora_rank, "max-loras": MAX_LORAS, "max-cpu-loras": MAX_CPU_LORAS}
        pairs = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return ["serve", str(self.network), *pairs, *flags]


class VllmServer:
    """The process, from any thread. on_end: called on a thread of its own when it ends and nobody has asked it to."""

    def __init__(self, on_end: Callable[[str], None], command: Sequence[str] = (COMMAND,)) -> None:
        self._on_end, self._command = on_end, command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ending = False
        self._folder = Path(tempfile.mkdtemp(prefix="mafunzo-vllm-"))  # 0700, and short: a socket's path has 107 bytes
        self.socket = self._folder / "socket"
        self.key = secrets.token_urlsafe(32)

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end."""
        with self._lock:
            return self._is_ending

    def start(self, model: VllmModel) -> None:
        """Start the server, and return when it answers.

        Raises `WorkerFailed` where it ends before that, `NotSupported` where there is no such command.
        """
        command = shutil.which(self._command[0])
        if command is None:
            raise NotSupported(f"There is no command '{self._command[0]}': {VLLM_EXTRA}, or take the engine torch.")
        argv = [command, *self._command[1:], *model.argv(self.socket)]
        with self._lock:
            if self._is_ending:
                raise WorkerFailed("The worker is ending.")
            self.socket.unlink(missing_ok=True)
            # A session of its own, so that its processes end with it.
            process = subprocess.Popen(argv, env=self._environment(), stdin=subprocess.DEVNULL, start_new_session=True)
            self._process = process
        logger.info("Started vLLM, process %d", process.pid)
        self._wait_until_ready(process)
        threading.Thread(target=self._watch, args=(process,), name="vllm-watch", daemon=True).start()

    def end(self) -> None:
        """End the server and all processes of it; idempotent. It can't be started any more."""
        with self._lock:
            self._is_ending = True
            process = self._process
        if process is not None:
            _end_session(process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        """No usage statistics, nothing from the hub, adapters while it runs."""
        own = {
            "VLLM_API_KEY": self.key,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
        }
        return {**os.environ, **own}

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=transport, base_url="http://vllm", trust_env=False, timeout=10) as client:
            while not _is_healthy(client):
                if process.poll() is not None:
                    _end_session(process)
                    raise WorkerFailed(f"vLLM ended before it was ready, with {_end_of(process)}. Its log says why.")
                time.sleep(POLL_S)

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        if not self.is_ending:
            self._on_end(f"vLLM ended, with {_end_of(process)}")


def _is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def _end_of(process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end_session(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the process, SIGKILL to its whole group once it has ended, or after a grace period."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
