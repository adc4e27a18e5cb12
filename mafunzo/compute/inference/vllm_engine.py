"""vLLM as an engine: token ids in, token stream out, computed by vLLM's OpenAI-compatible server, a child of the worker.

Why an engine, and not a proxy of vLLM's own chat API: the worker's HTTP stays one and the same. Our chat template renders the
prompt, our tokenizer makes text of the reply, our code finds stop strings, tool calls and reasoning, and refuses what can't be
honoured; vLLM gets token ids and gives token ids (`/v1/completions` with `return_token_ids`). So what is served is what was
trained, as with every other engine, and the proof at deployment compares the same things.

    worker's HTTP --GenerationRequest--> VllmEngine --token ids, over a socket of its own--> vllm serve (GPU)
                  <------ events ------- ReplyWriter <----- token ids, log-probabilities -----

A reply that must have a structure is held to it by vLLM, which gets the grammar's text (llguidance is its backend too), and is
followed here by the same grammar: one that leaves it fails, and none goes out that doesn't hold.

This process never touches the GPU: its torch renders and checks on the CPU, and makes no CUDA context.
"""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from mafunzo.compute.inference.detokenizer import Tokenizer
from mafunzo.compute.inference.reply_writer import ReplyWriter
from mafunzo.compute.inference.request import (
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptRead,
    TokenStream,
    guarded,
)
from mafunzo.compute.inference.request_check import check_request
from mafunzo.compute.inference.sampler import TokenLogprob
from mafunzo.compute.inference.vllm_request import (
    cached_tokens_of,
    completion_body,
    error_of,
    prompt_logprobs_of,
    require_honoured,
    tokens_of,
)
from mafunzo.compute.inference.vllm_server import BASE
from mafunzo.compute.model.lora import read_adapter_config
from mafunzo.entities.engine import vllm_adapter_fault
from mafunzo.errors import Conflict, FailedError, MafunzoError, NotFound, NotSupported, WorkerFailed

logger = logging.getLogger(__name__)

OWN = "own"
"""vLLM's name for the adapter that the model itself is; others are named by the worker, with a '#' in them."""
BUFFER_BYTES = 2**20
DATA = b"data:"
END = b"[DONE]"
Result = TypeVar("Result")


class VllmEngine:
    """Generates replies by the vLLM that listens on `socket`; one thread has all connections to it.

    key: its bearer token. lora_rank: the greatest of an adapter that it can load, 0 for none. max_batch: sequences at once.
    """

    def __init__(
        self,
        socket: Path,
        key: str,
        tokenizer: Tokenizer,
        stop_token_ids: Collection[int],
        max_model_len: int,
        vocab_size: int,
        max_batch: int,
        lora_rank: int,
    ) -> None:
        self.tokenizer, self.stop_token_ids = tokenizer, frozenset(stop_token_ids)
        self.max_model_len, self.vocab_size, self._max_batch = max_model_len, vocab_size, max_batch
        self.adapter_names: set[str] = set()
        self._eos_token_id: int | None = getattr(tokenizer, "eos_token_id", None)
        self._socket, self._key, self._lora_rank = socket, key, lora_rank
        self._model = BASE
        self._live: set[_Live] = set()
        self._leaving_adapters: set[str] = set()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._session = self._wait(self._open())

    @property
    def max_batch(self) -> int:
        """How many sequences run at once."""
        return self._max_batch

    def check(self, request: GenerationRequest) -> None:
        """Raise `InvalidParameter` for what vLLM can't honour of a request. It always generates a token at least."""
        check_request(request, self.max_model_len, self.vocab_size, self.adapter_names, least_tokens=1)
        require_honoured(request)

    def submit(
        self,
        request: GenerationRequest,
        on_event: Callable[[Event], None] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> TokenStream:
        """Start a request from any thread; iterate the stream, or let the connections' thread call `on_event`.

        tokenizer: an adapter's own, which makes the reply's text. Raises what `check` does.
        """
        self.check(request)
        stops = request.stops(self.stop_token_ids)
        room = self.max_model_len - len(request.prompt_token_ids)
        live: _Live

        def cancel() -> None:
            self._call(live.cancel)

        stream = TokenStream(cancel)
        live = _Live(request, stops, tokenizer or self.tokenizer, room, on_event or stream.put)
        if not self._call(lambda: self._begin(live)):
            live.send(Failed(WorkerFailed("The engine is closed.")))
        return stream

    def load_own_adapter(self, folder: Path) -> None:
        """Have an adapter compute what names none: the model itself is one."""
        self.load_adapter(OWN, folder)
        self.adapter_names.discard(OWN)
        self._model = OWN

    def load_adapter(self, name: str, folder: Path) -> None:
        """Have requests name an adapter (peft's format) from now on; from any thread.

        Raises `NotSupported` for one that vLLM computes otherwise or not at all, `Conflict` for a name that is taken.
        """
        if name in self.adapter_names:
            raise Conflict(f"There is an adapter '{name}' already. Choose another name.")
        if not self._lora_rank:
            raise NotSupported("vLLM computes this model without adapters only. Deploy it with the engine torch.")
        fault = vllm_adapter_fault(read_adapter_config(folder), self._lora_rank)
        if fault:
            raise NotSupported(f"{folder}: {fault}. Deploy it with the engine torch.")
        self._wait(self._load_adapter(name, folder.resolve()))
        self.adapter_names.add(name)

    def unload_adapter(self, name: str) -> None:
        """Let no new request name an adapter; vLLM forgets it once those under way have ended. From any thread."""
        self.adapter_names.discard(name)
        self._wait(self._unload(name))

    def load(self) -> tuple[int, int]:
        """Return how many sequences have begun to answer, and how many have not."""
        live = list(self._live)
        begun = sum(one.has_begun for one in live)
        return begun, len(live) - begun

    def close(self) -> None:
        """End the connections and their thread; requests under way fail. vLLM itself is its `VllmServer`'s."""
        if not self._is_closed:
            self._wait(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # On any thread

    def _call(self, work: Callable[[], None]) -> bool:
        """Have the connections' thread do something; return whether there is one."""
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop.is_closed():
            work.close()
            raise WorkerFailed("The engine is closed.")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # On the connections' thread

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # A connection a request: one that is kept may be closed by vLLM just when it is used again.
            connector=aiohttp.UnixConnector(str(self._socket), limit=0, force_close=True),
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=aiohttp.ClientTimeout(total=None),  # how long an answer may take is the server's to say
            read_bufsize=BUFFER_BYTES,
        )

    async def _shut(self) -> None:
        self._is_closed = True
        tasks = [live.task for live in self._live if live.task is not None]
        for live in list(self._live):
            live.cancel(WorkerFailed("The engine was closed before the reply was done."))
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def _load_adapter(self, name: str, folder: Path) -> None:
        """Whatever vLLM says against an adapter is a refusal of that adapter; it has a status of 500 for most of it."""
        try:
            await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except _Refusal as refusal:
            raise NotSupported(f"The adapter '{name}' can't be loaded: {refusal.error.message}") from refusal

    async def _unload(self, name: str) -> None:
        """Have vLLM forget an adapter, or remember to once no request names it: it would take it from those under way."""
        if any(live.request.adapter == name for live in self._live):
            self._leaving_adapters.add(name)
            return
        self._leaving_adapters.discard(name)
        try:
            await self._post("/v1/unload_lora_adapter", {"lora_name": name})
        except _Refusal as refusal:  # it had dropped it for others, say; nobody can name it any more
            logger.warning("The adapter %s isn't unloaded: %s", name, refusal.error)

    async def _forget_adapter(self, name: str) -> None:
        with suppress(WorkerFailed):  # who was answered has been; and a vLLM that is gone holds nothing
            await self._unload(name)

    def _begin(self, live: "_Live") -> None:
        name = live.request.adapter
        if self._is_closed:
            live.send(Failed(WorkerFailed("The engine is closed.")))
        elif name is not None and name not in self.adapter_names:
            live.send(Failed(NotFound(f"The adapter '{name}' was unloaded just now.")))
        elif live.is_cancelled:  # before it began
            live.send(live.writer.finished(FinishReason.CANCELED, 0))
        else:
            self._live.add(live)
            live.task = self._loop.create_task(self._answer(live))

    async def _answer(self, live: "_Live") -> None:
        """Ask vLLM, and send all events of a request; leaving it closes the connection, which ends it in vLLM too."""
        try:
            last: Event = await self._ask(live)
        except asyncio.CancelledError:
            last = Failed(live.failure) if live.failure else live.writer.finished(FinishReason.CANCELED, 0)
        except _Refusal as refusal:
            last = Failed(refusal.error)
        except MafunzoError as error:
            last = Failed(error)
        except Exception as error:
            logger.exception("A request failed")
            last = Failed(FailedError(f"The reply failed: {type(error).__name__}: {error}"))
        self._live.discard(live)
        live.send(last)
        if live.request.adapter in self._leaving_adapters and not self._is_closed:
            await self._forget_adapter(live.request.adapter)

    async def _ask(self, live: "_Live") -> Finished:
        request = live.request
        model = request.adapter or self._model
        body = completion_body(request, model, live.writer.max_tokens, live.stops, self._eos_token_id)
        if request.prompt_logprobs is not None:
            return live.take_whole(await self._post("/v1/completions", body))
        with _connection():
            async with self._session.post("http://vllm/v1/completions", json=body) as response:
                await _require_ok(response)
                return await live.take_stream(_chunks(response))

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """Return vLLM's answer, JSON or text; raises `_Refusal`, or `WorkerFailed` where there is none."""
        with _connection():
            async with self._session.post(f"http://vllm{path}", json=body) as response:
                await _require_ok(response)
                return await (response.json() if "json" in response.content_type else response.text())


class _Refusal(Exception):
    """vLLM answered with an error."""

    def __init__(self, error: MafunzoError) -> None:
        super().__init__(error.message)
        self.error = error


class _Live:
    """A request under way; all but its making happens on the connections' thread."""

    def __init__(
        self,
        request: GenerationRequest,
        stops: frozenset[int],
        tokenizer: Tokenizer,
        room: int,
        on_event: Callable[[Event], None],
    ) -> None:
        self.request, self.stops = request, stops
        self.task: asyncio.Task[None] | None = None
        self.failure: MafunzoError | None = None
        self.is_cancelled = self.has_begun = False
        self.send = guarded(on_event)
        self._matcher = None if request.grammar is None else request.grammar.matcher()
        self.writer = ReplyWriter(request, stops, tokenizer, room, self.send)

    def cancel(self, failure: MafunzoError | None = None) -> None:
        """End it; idempotent. failure: why, where nobody asked for that."""
        self.is_cancelled, self.failure = True, failure
        if self.task is not None:
            self.task.cancel()

    def take_whole(self, answer: Any) -> Finished:
        """Take an answer that has the prompt's log-probabilities."""
        [choice] = answer["choices"]
        ids, top = self.request.prompt_token_ids, self.request.prompt_logprobs or 0
        self.send(PromptRead(prompt_logprobs_of(choice, ids, top)))
        cached = cached_tokens_of(answer.get("usage"))
        if self.writer.max_tokens == 0:
            return self.writer.finished(FinishReason.LENGTH, cached)
        reason = self._take(choice) or self._end(choice)
        return self.writer.finished(reason, cached)

    async def take_stream(self, chunks: "AsyncIterator[dict[str, Any]]") -> Finished:
        """Take a stream up to its end, or to the token that ends the reply: vLLM isn't waited for then."""
        reason: FinishReason | None = None
        cached = 0
        async for chunk in chunks:
            if "error" in chunk:
                raise error_of(chunk, _code(chunk["error"]))
            cached = cached_tokens_of(chunk.get("usage")) or cached
            for choice in chunk["choices"]:
                reason = reason or self._take(choice)
                if reason is None and choice.get("finish_reason"):
                    reason = self._end(choice)
                if reason is not None and not choice.get("finish_reason"):
                    return self.writer.finished(reason, cached)
        if reason is None:
            raise WorkerFailed("vLLM's answer broke off.")
        return self.writer.finished(reason, cached)

    def _take(self, choice: Any) -> FinishReason | None:
        """Take the tokens of a chunk; return why the reply ends in it, if it does."""
        for token_id, entry in tokens_of(choice, self.request.logprobs):
            self.has_begun = True
            if (reason := self._take_token(token_id, entry)) is not None:
                return reason
        return None

    def _take_token(self, token_id: int, entry: TokenLogprob | None) -> FinishReason | None:
        if self._matcher is None or self.writer.is_stop(token_id):
            return self.writer.take(token_id, entry)
        self._matcher.accept(token_id)
        return self.writer.take(token_id, entry, self._matcher.is_over)

    def _end(self, choice: Any) -> FinishReason:
        """Return why vLLM ended a reply by itself."""
        reason = choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise WorkerFailed(f"vLLM gave the reply up: {reason}.")
        return self.writer.end(FinishReason(reason))


@contextmanager
def _connection() -> Iterator[None]:
    """Raise `WorkerFailed` where a connection to vLLM breaks, or there is none."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        raise WorkerFailed(f"vLLM ended, or its connection did: {type(error).__name__}: {error}") from error


async def _require_ok(response: aiohttp.ClientResponse) -> None:
    if response.status >= 400:
        text = await response.text()
        try:
            body = json.loads(text)
        except ValueError:
            body = text
        raise _Refusal(error_of(body, response.status))


async def _chunks(response: aiohttp.ClientResponse) -> "AsyncIterator[dict[str, Any]]":
    """Yield the objects of a stream of server-sent events."""
    async for line in response.content:
        data = line.strip().removeprefix(DATA).strip() if line.startswith(DATA) else b""
        if data and data != END:
            yield json.loads(data)


def _code(error: Any) -> int:
    """Return the HTTP status of an error that comes within a stream."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500
