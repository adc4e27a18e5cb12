"""The inference engine: token ids in, token stream out. One thread performs what the batcher decides, step by step.

Requests come from any thread through a queue and are answered by events. A fault in one request ends that request only.
"""

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from mafunzo.compute.device.out_of_memory import is_out_of_memory
from mafunzo.compute.inference import batcher
from mafunzo.compute.inference.block_pool import BlockPool, block_count, prefix_keys
from mafunzo.compute.inference.detokenizer import Tokenizer
from mafunzo.compute.inference.executor import Executor, Row, Wanted
from mafunzo.compute.inference.reply_writer import ReplyWriter
from mafunzo.compute.inference.request import (
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptRead,
    Reply,
    TokenStream,
    guarded,
)
from mafunzo.compute.inference.request_check import check_request
from mafunzo.compute.inference.sampler import Sampler, Sampling, TokenLogprob, logprob
from mafunzo.errors import (
    FailedError,
    MafunzoError,
    NotFound,
    OutOfMemory,
    WorkerFailed,
)

logger = logging.getLogger(__name__)

GREEDY = Sampling(temperature=0)


class Engine:
    """Generates replies over one executor, with continuous batching.

    stop_token_ids: tokens that end a reply. max_batch: sequences at once; more wait, first come, first served.
    keeps_prefixes: whether what was computed of a prompt is kept for those that begin like it, as long as there is room.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        stop_token_ids: Collection[int] = (),
        max_batch: int = 16,
        limits: batcher.Limits | None = None,
        keeps_prefixes: bool = True,
    ) -> None:
        self.executor = executor
        self.tokenizer = tokenizer
        self.stop_token_ids = frozenset(stop_token_ids)
        self.max_model_len, self.vocab_size = executor.max_model_len, executor.vocab_size
        self.limits = limits or batcher.Limits(max_batch, cache_tokens=executor.cache_budget_tokens())
        self._inbox: queue.SimpleQueue[_Live | _Change | int | None] = queue.SimpleQueue()
        self._ids = itertools.count()
        self._state = batcher.State()
        cache_tokens = max(self.limits.cache_tokens, self.max_model_len)
        self._pool = BlockPool(block_count(cache_tokens), keeps_prefixes)
        self._live: dict[int, _Live] = {}
        self._leaving_adapters: set[str] = set()
        self._is_closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: GenerationRequest,
        on_event: Callable[[Event], None] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> TokenStream:
        """Start a request from any thread; iterate the stream, or let the engine's thread call `on_event`.

        tokenizer: an adapter's own, which makes the reply's text; by default the engine's.

        Raises `InvalidParameter` for a prompt that is empty, too long, or not of this vocabulary.
        """
        self.check(request)
        id = next(self._ids)
        stream = TokenStream(lambda: self._inbox.put(id))
        stops = request.stops(self.stop_token_ids)
        live = _Live(id, request, stops, tokenizer or self.tokenizer, on_event or stream.put, self.max_model_len)
        with self._closing:
            if not self._is_closed:
                self._inbox.put(live)
                return stream
        live.send(Failed(WorkerFailed("The engine is closed.")))
        return stream

    def check(self, request: GenerationRequest) -> None:
        """Raise `InvalidParameter` for an empty or too long prompt, ids outside the vocabulary, or an unknown adapter."""
        check_request(request, self.max_model_len, self.vocab_size, self.executor.adapter_names)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> list[Reply]:
        """Answer all prompts (token ids), batched, and return the replies in order; `on_progress` gets how many are done."""
        requests = [GenerationRequest(tuple(prompt), max_tokens, sampling, tuple(stop)) for prompt in prompts]
        for request in requests:
            self.check(request)
        replies = []
        for stream in [self.submit(request) for request in requests]:
            replies.append(stream.reply())
            on_progress(len(replies))
        return replies

    def load_adapter(self, name: str, folder: Path) -> None:
        """Have requests name an adapter (peft's format) from now on; from any thread.

        It is read while replies go on, and joins the network between two steps. Raises what is wrong with the adapter,
        `Conflict` for a name that is taken, `OutOfMemory`, and `WorkerFailed` of an engine that is closed.
        """
        try:
            factors = self.executor.read_adapter(folder)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"No memory left for the adapter '{name}'. Unload another.") from error
        self._between_steps(lambda: self.executor.add_adapter(name, factors))

    def unload_adapter(self, name: str) -> None:
        """Let no new request name an adapter; its memory is free once those under way have ended. From any thread."""
        self._between_steps(lambda: self._leaving_adapters.add(name))

    def _between_steps(self, change: Callable[[], None]) -> None:
        """Have the engine's thread make a change when no forward is under way; return once it is made, or raise its error."""
        message = _Change(change)
        with self._closing:
            if self._is_closed:
                raise WorkerFailed("The engine is closed.")
            self._inbox.put(message)
        message.end.result()

    @property
    def max_batch(self) -> int:
        """How many sequences run at once."""
        return self.limits.max_batch

    def load(self) -> tuple[int, int]:
        """Return how many sequences hold blocks of the KV cache, and how many wait."""
        state = self._state
        return len(state.running), len(state.waiting) + self._inbox.qsize()

    def close(self) -> None:
        """End the thread; requests under way fail."""
        self._inbox.put(None)
        self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._take_messages():
                    self._step()
        finally:
            self._fail_all()

    def _fail_all(self) -> None:
        """Close the inbox, and fail all requests."""
        with self._closing:
            self._is_closed = True
        messages = [self._inbox.get() for _ in range(self._inbox.qsize())]
        for live in [*self._live.values(), *(message for message in messages if isinstance(message, _Live))]:
            live.send(Failed(WorkerFailed("The engine was closed before the reply was done.")))
        for change in (message for message in messages if isinstance(message, _Change)):
            change.end.set_exception(WorkerFailed("The engine was closed before the change was made."))

    def _take_messages(self) -> bool:
        """Apply the inbox's messages, blocking while the engine is idle. Returns False once closed."""
        self._forget_adapters()
        is_idle = not (self._state.waiting or self._state.running)
        if is_idle and self._pool.is_empty:
            self.executor.clear()
        while is_idle or not self._inbox.empty():
            message = self._inbox.get()
            is_idle = False
            if message is None:
                return False
            if isinstance(message, int):
                self._cancel(message)
            elif isinstance(message, _Change):
                message.make()
            else:
                self._take_in(message)
        return True

    def _take_in(self, live: "_Live") -> None:
        """Queue a request; one whose adapter was unloaded since it was checked fails."""
        name = live.request.adapter
        if name is not None and (name not in self.executor.adapter_names or name in self._leaving_adapters):
            live.send(Failed(NotFound(f"The adapter '{name}' was unloaded just now.")))
            return
        self._live[live.id] = live
        self._state = batcher.submit(self._state, live.sequence())

    def _forget_adapters(self) -> None:
        """Free the memory of adapters that are to go and that no request names any more."""
        for name in self._leaving_adapters - {live.request.adapter for live in self._live.values()}:
            if name in self.executor.adapter_names:
                self.executor.remove_adapter(name)
            self._leaving_adapters.discard(name)

    def _step(self) -> None:
        """Run the next step of all that run, and choose their next tokens."""
        step = batcher.decide(self._state, self._pool, self.limits)
        self._state = batcher.begin(self._state, self._pool, step)
        for id in step.preempted:
            self._live[id].start_over()
            logger.info("Sent sequence %d back to the queue: the cache is full", id)
        for id in step.admitted:
            self._live[id].admit(step.prefix(id).tokens)
        self._copy(batcher.copies(self._state, step))
        sequences = {sequence.id: sequence for sequence in self._state.running}
        rows = {
            part.id: self._live[part.id].row(sequences[part.id], part.count)
            for part in step.parts
            if part.id in sequences  # not where its copy has failed
        }
        logits = self._forward(rows)
        tokens = {id: live.token_ids for id, live in self._live.items()}
        self._state = batcher.finish(self._state, self._pool, step, tokens)
        for id, logits_QV in logits.items():
            with self._isolated(id):
                self._take(self._live[id], rows[id], logits_QV)

    def _copy(self, copies: Mapping[int, tuple[int, int]]) -> None:
        """Copy the blocks that sequences begin with; where that fails, those sequences do."""
        if not copies:
            return
        try:
            self.executor.copy_blocks(list(copies.values()))
        except Exception as error:  # noqa: BLE001 - the loop outlives whatever a request provokes
            for id in copies:
                self._fail(id, error)

    def _forward(self, rows: dict[int, Row]) -> dict[int, Tensor]:
        """Return the logits of each row. Where a step fails each of its rows runs alone, so that only the faulty one fails."""
        try:
            return dict(zip(rows, self.executor.forward(list(rows.values())), strict=True)) if rows else {}
        except Exception as error:  # noqa: BLE001 - the loop outlives whatever a request provokes
            if len(rows) == 1:
                self._fail(next(iter(rows)), error)
                return {}
            logger.warning("A step of %d rows failed (%s): running each alone", len(rows), type(error).__name__)
        apart = [self._forward({id: row}) for id, row in rows.items()]
        return {id: logits for alone in apart for id, logits in alone.items()}

    def _take(self, live: "_Live", row: Row, logits_QV: Tensor) -> None:
        """Take what a row's forward tells: log-probabilities of the prompt, and the next token once all are run."""
        live.read(row, logits_QV)
        if row.end < len(live.token_ids):
            return
        live.finish_prompt()
        reason = FinishReason.LENGTH if live.max_tokens == 0 else live.take(logits_QV[-1])
        if reason is not None:
            self._end(live, live.finished(reason))

    @contextmanager
    def _isolated(self, id: int) -> Iterator[None]:
        """Have what fails in the body end one request: one row's fault isn't its neighbours'."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a fault ends its own request only
            self._fail(id, error)

    def _cancel(self, id: int) -> None:
        if id in self._live:
            self._end(self._live[id], self._live[id].finished(FinishReason.CANCELED))

    def _fail(self, id: int, error: Exception) -> None:
        failure = _translate(error)
        if failure.code == FailedError.code:
            logger.error("A request failed", exc_info=error)
        self._end(self._live[id], Failed(failure))

    def _end(self, live: "_Live", event: Event) -> None:
        self._state = batcher.remove(self._state, self._pool, live.id)
        del self._live[live.id]
        live.send(event)


@dataclass(frozen=True)
class _Change:
    """What the engine's thread does between two steps, and its end."""

    work: Callable[[], None]
    end: "Future[None]" = field(default_factory=Future)

    def make(self) -> None:
        try:
            self.work()
        except Exception as error:  # noqa: BLE001 - it is whoever waits for the change who learns of it
            self.end.set_exception(error)
        else:
            self.end.set_result(None)


class _Live:
    """A request under way. token_ids: prompt, then generated tokens. cached_tokens: of the prompt, those not computed."""

    def __init__(
        self,
        id: int,
        request: GenerationRequest,
        stop_token_ids: frozenset[int],
        tokenizer: Tokenizer,
        on_event: Callable[[Event], None],
        max_model_len: int,
    ) -> None:
        self.id = id
        self.request = request
        self.token_ids = list(request.prompt_token_ids)
        self.cached_tokens: int | None = None
        self.send = guarded(on_event)
        room = max_model_len - len(self.token_ids)
        self._writer = ReplyWriter(request, stop_token_ids, tokenizer, room, self.send)
        self._sampler = Sampler(request.sampling, request.prompt_token_ids)
        self._matcher = None if request.grammar is None else request.grammar.matcher()
        self._prompt_logprobs: list[TokenLogprob | None] = [None]
        self._has_sent_prompt_logprobs = False

    @property
    def max_tokens(self) -> int:
        return self._writer.max_tokens

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.request.prompt_logprobs is not None and not self._has_sent_prompt_logprobs

    def sequence(self) -> batcher.Sequence:
        """Return what the batcher has to know of it."""
        # Escapes keep an adapter's name apart from a salt, whatever either is.
        root = ascii((self.request.adapter, self.request.cache_salt)).encode()
        keys = prefix_keys(root, self.token_ids)
        return batcher.Sequence(
            self.id, len(self.token_ids), keys=keys, root=root, may_share=not self.wants_prompt_logprobs
        )

    def admit(self, cached_tokens: int) -> None:
        """Note how much of the prompt was in the cache when the request came in; not what a preempted one finds again."""
        if self.cached_tokens is None:
            self.cached_tokens = cached_tokens

    def row(self, sequence: batcher.Sequence, count: int) -> Row:
        """Return the next `count` tokens as the executor runs them."""
        start, end = sequence.computed, sequence.computed + count
        wanted = Wanted.LAST if end == len(self.token_ids) else Wanted.NONE
        wanted = Wanted.ALL if self.wants_prompt_logprobs else wanted
        return Row(self.token_ids[start:end], start, sequence.blocks, wanted, self.request.adapter)

    def start_over(self) -> None:
        """Reset after preemption: it is read from its beginning again."""
        self._prompt_logprobs = [None]

    def read(self, row: Row, logits_QV: Tensor) -> None:
        """Record the prefill of a row; logits `i` score the token after it."""
        if self.wants_prompt_logprobs:
            next_ids = self.request.prompt_token_ids[row.start + 1 : row.end + 1]
            top = self.request.prompt_logprobs or 0
            self._prompt_logprobs += [logprob(one, token, top) for one, token in zip(logits_QV, next_ids, strict=False)]

    def finish_prompt(self) -> None:
        """Send the prompt's log-probabilities, once."""
        if self.wants_prompt_logprobs:
            self.send(PromptRead(tuple(self._prompt_logprobs)))
        self._has_sent_prompt_logprobs = True

    def take(self, logits_V: Tensor) -> FinishReason | None:
        """Sample the next token, send the text that is final, and return why the reply ends here, if it does."""
        token_id = self._sampler.choose(logits_V if self._matcher is None else self._matcher.mask(logits_V))
        self.token_ids.append(token_id)
        if self._writer.is_stop(token_id):
            return self._writer.take(token_id)
        if self._matcher is not None:
            self._matcher.accept(token_id)
        top = self.request.logprobs
        entry = None if top is None else logprob(logits_V, token_id, top)
        return self._writer.take(token_id, entry, self._matcher is not None and self._matcher.is_over)

    def finished(self, reason: FinishReason) -> Finished:
        """Return the last event."""
        return self._writer.finished(reason, self.cached_tokens or 0)


def _translate(error: Exception) -> MafunzoError:
    if isinstance(error, MafunzoError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory("No memory left for the reply. Lower --max-batch, or ask for fewer tokens.")
    return FailedError(f"The reply failed: {type(error).__name__}: {error}")
