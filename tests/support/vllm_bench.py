"""vLLM's stand-in on a thread of the tests' process, with the worker's engine over it."""

import threading
from pathlib import Path
from tempfile import mkdtemp

import uvicorn

from mafunzo.compute.inference.loading import LoadedModel, load_model
from mafunzo.compute.inference.vllm_server import VllmModel
from tests.support.vllm_stand_in import StandIn, make_app
from tests.support.waiting import until


class ThreadServer:
    """What `VllmServer` is, on a thread. failures: how many starts end before it is ready."""

    def __init__(self, failures: int = 0) -> None:
        self.socket = Path(mkdtemp(prefix="vllm-")) / "socket"
        self.key = "a-key"
        self.is_ending = False
        self.models: list[VllmModel] = []
        self._failures = failures
        self.stand_in: StandIn

    def start(self, model: VllmModel) -> None:
        from mafunzo.errors import WorkerFailed

        self.models.append(model)
        if len(self.models) <= self._failures:
            raise WorkerFailed("vLLM ended before it was ready, with exit code 1.")
        network: LoadedModel = load_model(model.network, max_batch=model.max_batch, device="cpu")
        self.stand_in = StandIn(network, self.key, max_lora_rank=model.lora_rank)
        config = uvicorn.Config(make_app(self.stand_in), uds=str(self.socket), log_level="error", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def end(self) -> None:
        if hasattr(self, "server"):
            self.server.should_exit = self.server.force_exit = True
            self.thread.join()
            self.stand_in.model.engine.close()
        self.socket.unlink(missing_ok=True)
        self.socket.parent.rmdir()
