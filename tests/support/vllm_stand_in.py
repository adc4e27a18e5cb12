"""A stand-in for the command `vllm`, where neither it nor a GPU can be had: `vllm serve MODEL --uds SOCKET ...`.

It speaks the part of vLLM's OpenAI-compatible dialect that the worker uses, and computes with our torch engine, so that what the
worker gives must be what torch gives. Options and fields that vLLM doesn't have are refused here, where vLLM would ignore some.
"""

if __name__ == "__main__":
    from mafunzo.compute.model.quick_start import import_networks

    import_networks()

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from mafunzo.compute.inference.grammar import GrammarCompiler
from mafunzo.compute.inference.loading import LoadedModel, load_model
from mafunzo.compute.inference.request import Delta, Event, Failed, Finished, GenerationRequest, PromptRead
from mafunzo.compute.inference.sampler import Sampling, TokenLogprob
from mafunzo.errors import MafunzoError

FIELDS = frozenset(
    [
        "model",
        "prompt",
        "max_tokens",
        "ignore_eos",
        "stop_token_ids",
        "return_token_ids",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "logit_bias",
        "logprobs",
        "return_tokens_as_token_ids",
        "structured_outputs",
        "cache_salt",
        "prompt_logprobs",
        "stream",
        "stream_options",
    ]
)
"""Those of vLLM's CompletionRequest that a worker may send."""


@dataclass
class StandIn:
    """What the stand-in serves. bodies: of the completions that it was asked for; aborted: how many clients left early."""

    model: LoadedModel
    key: str
    served: str = "base"
    max_lora_rank: int = 64
    bodies: list[dict[str, Any]] = field(default_factory=list)
    adapters: dict[str, Path] = field(default_factory=dict)
    answering: list[str] = field(default_factory=list)
    """The models of the streams under way."""
    aborted: int = 0
    failure: dict[str, Any] | None = None
    """The error that a stream has in place of its second chunk."""

    def __post_init__(self) -> None:
        # As vLLM has them: where a reply may end, they allow the tokenizer's EOS, and no other token that ends one.
        tokenizer = self.model.tokenizer
        self.grammars = GrammarCompiler(tokenizer, self.model.engine.vocab_size, [tokenizer.eos_token_id])


def make_app(stand_in: StandIn) -> FastAPI:
    """Return the application, with the routes that a worker uses."""
    app = FastAPI()
    engine = stand_in.model.engine

    @app.middleware("http")
    async def protect(request: Request, go_on: Any) -> Response:
        if request.url.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {stand_in.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return await go_on(request)

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in stand_in.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > stand_in.max_lora_rank:
            return _error(500, f"LoRA rank {rank} is greater than max_lora_rank {stand_in.max_lora_rank}.")
        await asyncio.to_thread(engine.load_adapter, name, path)
        stand_in.adapters[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if stand_in.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        assert name not in stand_in.answering, "vLLM takes it from the requests that it is computing"
        await asyncio.to_thread(engine.unload_adapter, name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        stand_in.bodies.append(body)
        if unknown := set(body) - FIELDS:
            return _error(400, f"Extra fields: {sorted(unknown)}")
        if body["model"] not in (stand_in.served, *stand_in.adapters):
            return _error(404, f"The model `{body['model']}` does not exist.")
        try:
            answer = _Answer(stand_in, body)
        except MafunzoError as error:
            return _error(400, error.message)
        if body.get("stream"):
            return StreamingResponse(answer.stream(), media_type="text/event-stream")
        return JSONResponse(await answer.whole())

    return app


class _Answer:
    """One completion, in vLLM's words."""

    def __init__(self, stand_in: StandIn, body: dict[str, Any]) -> None:
        self._stand_in, self._body = stand_in, body
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hand_over(event: Event) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._stream = stand_in.model.engine.submit(_generation_request(stand_in, body), hand_over)

    async def stream(self) -> AsyncIterator[bytes]:
        is_over = False
        self._stand_in.answering.append(self._body["model"])
        try:
            async for number, chunk in self._chunks():
                if number and self._stand_in.failure is not None:
                    yield _data({"error": self._stand_in.failure})
                    break
                yield _data(chunk)
            is_over = True
            yield b"data: [DONE]\n\n"
        finally:
            self._stand_in.answering.remove(self._body["model"])
            if not is_over:
                self._stand_in.aborted += 1
                print("stand-in: a client left", flush=True)
                self._stream.cancel()

    async def _chunks(self) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """One event later than the engine, as the last tokens come with the reason of the end."""
        number, last = 0, None
        while True:
            event = await self._events.get()
            if isinstance(event, Delta):
                if last is not None:
                    yield number, self._chunk(last, None)
                    number += 1
                last = event
            if isinstance(event, Failed):
                yield number, {"error": {"message": str(event.error), "code": 500}}
                return
            if isinstance(event, Finished):
                yield number, self._chunk(self._with_stop(last or Delta(""), event), event.reason)
                yield number + 1, {"choices": [], "usage": _usage(event)}
                return

    def _chunk(self, delta: Delta, reason: str | None) -> dict[str, Any]:
        return {"object": "text_completion", "choices": [self._choice(delta, reason)]}

    def _choice(self, delta: Delta, reason: str | None) -> dict[str, Any]:
        logprobs = None if self._body.get("logprobs") is None else _logprobs(delta.logprobs)
        return {
            "index": 0,
            "text": delta.text,
            "token_ids": list(delta.token_ids),
            "logprobs": logprobs,
            "finish_reason": reason and str(reason),
        }

    def _with_stop(self, delta: Delta, end: Finished) -> Delta:
        """vLLM's token ids have the stop token too."""
        if end.reason != "stop" or not self._body["stop_token_ids"]:
            return delta
        stop = self._body["stop_token_ids"][0]
        entry = () if self._body.get("logprobs") is None else (TokenLogprob(stop, -0.5, ()),)
        return replace(delta, token_ids=(*delta.token_ids, stop), logprobs=(*delta.logprobs, *entry))

    async def whole(self) -> dict[str, Any]:
        ids: list[int] = []
        entries: list[TokenLogprob] = []
        prompt: tuple[TokenLogprob | None, ...] = ()
        while not isinstance(event := await self._events.get(), Finished | Failed):
            if isinstance(event, PromptRead):
                prompt = event.logprobs
            elif isinstance(event, Delta):
                ids += event.token_ids
                entries += event.logprobs
        assert isinstance(event, Finished)
        delta = self._with_stop(Delta("", tuple(ids), tuple(entries)), event)
        choice = self._choice(delta, event.reason)
        choice["prompt_logprobs"] = [None if one is None else _prompt_entry(one) for one in prompt]
        return {"choices": [choice], "usage": _usage(event)}


def _generation_request(stand_in: StandIn, body: dict[str, Any]) -> GenerationRequest:
    text = (body.get("structured_outputs") or {}).get("grammar")
    stops = frozenset(body["stop_token_ids"])
    sampling = Sampling(
        body["temperature"],
        body["top_p"],
        body["top_k"],
        body.get("seed"),
        body["min_p"],
        body["presence_penalty"],
        body["frequency_penalty"],
        body["repetition_penalty"],
        {int(id): bias for id, bias in (body.get("logit_bias") or {}).items()},
    )
    return GenerationRequest(
        tuple(body["prompt"]),
        body["max_tokens"],
        sampling,
        ignore_eos=not stops,
        logprobs=body.get("logprobs"),
        prompt_logprobs=body.get("prompt_logprobs"),
        grammar=None if text is None else stand_in.grammars.compile(text, "structured_outputs"),
        adapter=None if body["model"] == stand_in.served else body["model"],
        cache_salt=body.get("cache_salt") or "",
        stop_token_ids=stops or None,
    )


def _logprobs(entries: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """The token itself stands first among the most likely ones, whether it is one of them or not."""
    tops = [{entry.token_id: entry.logprob} | dict(entry.top) for entry in entries]
    return {
        "tokens": [f"token_id:{entry.token_id}" for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{f"token_id:{id}": value for id, value in top.items()} for top in tops],
    }


def _prompt_entry(entry: TokenLogprob) -> dict[str, Any]:
    values = {entry.token_id: entry.logprob} | dict(entry.top)
    return {str(id): {"logprob": value, "rank": 1, "decoded_token": "x"} for id, value in values.items()}


def _usage(end: Finished) -> dict[str, Any]:
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": end.cached_tokens},
    }


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def main(argv: list[str]) -> None:
    """Serve as `vllm serve` would; an option that isn't listed ends it."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model", type=Path)
    for name in ("uds", "served-model-name", "tokenizer", "dtype", "logprobs-mode", "generation-config"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--structured-outputs-config.backend", choices=["guidance"], required=True)
    parser.add_argument("--gpu-memory-utilization", type=float, required=True)
    for name in ("max-model-len", "max-num-seqs", "max-logprobs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("max-lora-rank", "max-loras", "max-cpu-loras"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("enable-lora", "enable-prompt-tokens-details", "disable-uvicorn-access-log"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args(argv)
    model = load_model(options.model, max_batch=options.max_num_seqs, device="cpu")
    stand_in = StandIn(model, os.environ["VLLM_API_KEY"], options.served_model_name, options.max_lora_rank or 0)
    print("stand-in: ready", flush=True)
    uvicorn.run(make_app(stand_in), uds=options.uds, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
