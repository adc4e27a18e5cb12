"""A worker process: one model behind OpenAI's dialect on a loopback port.

It listens at once, writes its port to a file, and loads the model meanwhile; until then `/health` answers 503. It ends
itself when the model can't be loaded, with the exit code of the error, and within seconds of SIGTERM. Whoever
has its token may ask.
"""

if __name__ == "__main__":  # before anything else imports transformers
    from mafunzo.compute.model.quick_start import import_networks

    import_networks()

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
import uvicorn

from mafunzo import cgroup, settings
from mafunzo.compute.device import waiting
from mafunzo.compute.inference.http.app import make_app
from mafunzo.compute.inference.http.gate import Gate
from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.loading import LoadedModel, load_model
from mafunzo.entities.engine import Engine
from mafunzo.errors import FailedError, MafunzoError, PortInUse, WorkerFailed
from mafunzo.tracking.atomic_json import write_text

if TYPE_CHECKING:
    from mafunzo.compute.inference.vllm_server import VllmServer

logger = logging.getLogger(__name__)

GRACE_S = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Run a worker until it is told to end."""
    arguments = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads or cgroup.usable_cpus())
    waiting.watch()
    code = _Worker(arguments).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread may still be inside of the network: ending the interpreter would wait, or crash


class _Worker:
    """The server on the main thread, and the model loading on another."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._service = Service(arguments.name)
        self._exit_code = 0
        self._vllm = self._vllm_server() if arguments.engine == Engine.VLLM else None
        config = uvicorn.Config(
            Gate(make_app(self._service), _token(arguments.token_file)),
            log_config=None,  # its lines go where the worker's do
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> int:
        """Serve, and return the exit code."""
        try:
            listener = _listen(self._arguments.port)
        except MafunzoError as error:
            return self._tell(error)
        port = listener.getsockname()[1]
        if self._arguments.port_file:
            write_text(self._arguments.port_file, f"{port}\n")
        logger.info("Listening on http://127.0.0.1:%d", port)
        # uvicorn raises the signal that ended it once more when it is done; that must not change the exit code.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        signal.signal(signal.SIGINT, lambda number, frame: None)
        threading.Thread(target=self._load, name="load", daemon=True).start()
        try:
            self._server.run(sockets=[listener])
        finally:
            if self._vllm is not None:
                self._vllm.end()
        return self._exit_code

    def _load(self) -> None:
        arguments = self._arguments
        try:
            model = self._loaded()
            if arguments.engine_file:
                write_text(arguments.engine_file, f"{model.choice}\n")
            self._service.model = model
            logger.info("Ready: %s", self._service.name)
        except MafunzoError as error:
            if self._vllm is not None and self._vllm.is_ending:
                return  # the worker was told to end while it loaded
            self._exit_code = self._tell(error)
        except Exception as error:
            logger.exception("Loading failed")
            self._exit_code = self._tell(
                FailedError(f"{arguments.model} can't be loaded: {type(error).__name__}: {error}")
            )
        if self._exit_code:
            self._server.should_exit = True

    def _vllm_server(self) -> "VllmServer":
        from mafunzo.compute.inference.vllm_server import VllmServer  # httpx

        return VllmServer(self._end_after)

    def _loaded(self) -> LoadedModel:
        arguments = self._arguments
        if self._vllm is not None:
            from mafunzo.compute.inference.vllm_loading import load_by_vllm

            return load_by_vllm(self._vllm, arguments.model, arguments.base, arguments.max_batch)
        return load_model(
            arguments.model,
            arguments.base,
            arguments.max_batch,
            cache_mb=arguments.cache_mb,
            openvino_cache=settings.load().cache if arguments.engine == Engine.OPENVINO else None,
        )

    def _end_after(self, reason: str) -> None:
        """End the worker, as what computes is gone: the supervisor starts another."""
        self._exit_code = self._tell(WorkerFailed(f"{reason}. The worker ends with it."))
        self._server.should_exit = True

    def _tell(self, error: MafunzoError) -> int:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mafunzo.compute.inference.worker", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--model", type=Path, required=True, help="an MLflow or Hugging Face folder")
    parser.add_argument("--base", type=Path, help="the model that --model is an adapter of")
    parser.add_argument("--name", required=True, help="what the model is called in answers")
    parser.add_argument("--port", type=int, default=0, help="loopback port; 0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="file that the port is written to, once it listens")
    parser.add_argument("--token-file", type=Path, help="holds the bearer token that requests must have")
    parser.add_argument("--max-batch", type=int, default=16, help="sequences at once")
    parser.add_argument(
        "--engine",
        choices=[Engine.TORCH, Engine.OPENVINO, Engine.VLLM],
        default=Engine.TORCH,
        help="what computes; openvino falls back to torch where it can't, or where its self-check fails",
    )
    parser.add_argument("--engine-file", type=Path, help="file that it is written to what computes, and why")
    parser.add_argument("--cache-mb", type=int, help="what the KV cache may take; without it, a share of what is free")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as many as this process may use cores")
    return parser.parse_args(argv)


def _token(file: Path | None) -> str | None:
    return None if file is None else file.read_text(encoding="ascii").strip()


def _listen(port: int) -> socket.socket:
    # The protocol is named because asyncio turns Nagle's delay (40 ms an answer) off only for a socket that names it.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise PortInUse(f"Port {port} can't be listened on: {error.strerror}. Choose another, or 0.") from error
    listener.listen(512)
    return listener


if __name__ == "__main__":
    main()
