"""A generation request to the engine, and the events of its token stream."""

import logging
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from mafunzo.compute.inference.grammar import Grammar
from mafunzo.compute.inference.sampler import Sampling, TokenLogprob
from mafunzo.errors import MafunzoError

logger = logging.getLogger(__name__)


class FinishReason(StrEnum):
    """Why a reply ended: a stop token or stop string, `max_tokens`, or cancellation."""

    STOP = "stop"
    LENGTH = "length"
    CANCELED = "canceled"


@dataclass(frozen=True)
class GenerationRequest:
    """Continue a prompt.

    max_tokens: None as many as the context has room for; 0 only reads the prompt, for its log-probabilities.
    stop: strings that end the reply and aren't part of it. ignore_eos: go on after the model's own stop tokens.
    logprobs: how many alternatives to report with each token's log-probability; None reports nothing, 0 the token alone.
    prompt_logprobs: the same for the prompt's tokens. grammar: what the reply is held to; it ends where the grammar does,
    or at a stop token, `ignore_eos` or not. adapter: the name of the one that computes the reply, None for the base.
    cache_salt: what is kept of the prompt is shared with requests of the same salt only.
    stop_token_ids: what ends the reply; None: what the engine's model stops at.
    """

    prompt_token_ids: tuple[int, ...]
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None
    adapter: str | None = None
    cache_salt: str = ""
    stop_token_ids: frozenset[int] | None = None

    def stops(self, of_model: frozenset[int]) -> frozenset[int]:
        """Return the token ids that end the reply. of_model: those that the engine's model stops at."""
        if self.ignore_eos and self.grammar is None:
            return frozenset()
        return of_model if self.stop_token_ids is None else self.stop_token_ids


@dataclass(frozen=True)
class PromptRead:
    """The prompt's log-probabilities, one a token; the first has none. Sent once, if requested."""

    logprobs: tuple[TokenLogprob | None, ...]


@dataclass(frozen=True)
class Delta:
    """New text, its tokens, and their log-probabilities if requested. A token may come before its text."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The last event of a reply. `completion_tokens` counts the stop token, `cached_tokens` those of the prompt that were in
    the KV cache already."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Failed:
    """The last event of a request that failed."""

    error: MafunzoError


Event = PromptRead | Delta | Finished | Failed


def guarded(listener: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return what calls a listener; its exception is logged and ends nothing."""

    def send(event: Event) -> None:
        try:
            listener(event)
        except Exception:
            logger.exception("The listener of a request failed")

    return send


@dataclass
class Reply:
    """A whole answer. `token_ids` leaves out the stop token; the text ends before a stop string, whose tokens are in it."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, event: Event) -> None:
        """Take one event in; raises the error of a failed request."""
        match event:
            case PromptRead():
                self.prompt_logprobs = list(event.logprobs)
            case Delta():
                self.text += event.text
                self.token_ids += event.token_ids
                self.logprobs += event.logprobs
            case Finished():
                self.finished = event
            case Failed():
                raise event.error


class TokenStream:
    """The events of one request, for another thread to iterate; ends after `Finished` or `Failed`."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def put(self, event: Event) -> None:
        """Append an event (called by the engine's thread)."""
        self._events.put(event)

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self._events.get()
            yield event
            if isinstance(event, Finished | Failed):
                return

    def reply(self) -> Reply:
        """Wait for the whole answer; raises the error of a failed request."""
        reply = Reply()
        for event in self:
            reply.add(event)
        return reply
