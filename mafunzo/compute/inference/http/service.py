"""What a worker serves under its names, a model and adapters on it, with its metrics; and the JSON that it is asked in."""

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mafunzo.compute.chat.prompt import render_prompt
from mafunzo.compute.chat.template import text_ids
from mafunzo.compute.inference.detokenizer import token_text
from mafunzo.compute.inference.grammar import Grammar
from mafunzo.compute.inference.loading import LoadedModel, load_adapter
from mafunzo.compute.inference.request_grammar import request_grammar
from mafunzo.compute.inference.sampler import TokenLogprob as EngineLogprob
from mafunzo.entities.conversation import Conversation
from mafunzo.errors import Conflict, InvalidParameter, NotFound, Unavailable
from mafunzo.protocol.body import parse_body
from mafunzo.protocol.chat import ChatRequest, Heading, TokenLogprob
from mafunzo.protocol.completions import TOKEN_ID

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Service:
    """One model under a name. `model` is None while it loads. adapters: those on it, by their names, `<name>:<adapter>`.

    root: the folder that an adapter was loaded from.
    """

    def __init__(
        self, name: str, model: LoadedModel | None = None, metrics: "Metrics | None" = None, root: Path | None = None
    ) -> None:
        self.name, self.root = name, root
        self.created = int(time.time())
        self.model = model
        self.metrics = metrics or Metrics(lambda: self.model.engine.load() if self.model else (0, 0))
        self.adapters: dict[str, Service] = {}
        self._changing = threading.Lock()
        self._loads = itertools.count(1)

    def named(self, model: object) -> "Service":
        """Return what answers a request for `model`: an adapter by its name, the model itself by any other that is none.

        Raises `NotFound` for an adapter that isn't loaded.
        """
        if not isinstance(model, str) or not model.startswith(f"{self.name}:"):
            return self
        adapter = self.adapters.get(model)
        if adapter is None:
            raise NotFound(f"There is no adapter '{model}' on this worker.")
        return adapter

    def load_adapter(self, name: str, folder: Path) -> "Service":
        """Load an adapter under a name; the same once more changes nothing. Takes seconds; requests go on meanwhile.

        Raises `InvalidParameter` for a name that isn't `<model>:<adapter>`, `Conflict` for one that is taken, and what
        `loading.load_adapter` does.
        """
        if not name.startswith(f"{self.name}:") or name == f"{self.name}:":
            raise InvalidParameter(f"lora_name is '{name}', expected '{self.name}:' and the adapter's name.")
        with self._changing:
            present = self.adapters.get(name)
            if present is not None and present.root == folder:
                return present
            if present is not None:
                raise Conflict(f"There is an adapter '{name}' already, from {present.root}. Unload it first.")
            # What the engine keeps of prompts is kept by its name of an adapter: no two loads share one.
            others = [one.loaded for one in self.adapters.values()]
            model = load_adapter(self.loaded, folder, f"{name}#{next(self._loads)}", others)
            self.adapters[name] = Service(name, model, self.metrics, folder)
            return self.adapters[name]

    def unload_adapter(self, name: str) -> None:
        """Let no new request have an adapter; those under way end as they would. Raises `NotFound`."""
        with self._changing:
            adapter = self.adapters.pop(name, None)
            if adapter is None:
                raise NotFound(f"There is no adapter '{name}' on this worker.")
            assert adapter.loaded.adapter is not None
            self.loaded.engine.unload_adapter(adapter.loaded.adapter)

    @property
    def loaded(self) -> LoadedModel:
        """The model; raises `Unavailable` while it loads."""
        if self.model is None:
            raise Unavailable(f"'{self.name}' is loading. Try again in a few seconds.")
        return self.model

    def heading(self, prefix: str) -> Heading:
        """Return the id, time and model name of an answer."""
        return Heading(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), self.name)

    def prompt_ids(
        self, conversation: Conversation, add_generation_prompt: bool, variables: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Return a conversation as token ids; raises `InvalidParameter` where the chat template can't render it."""
        tokenizer = self.loaded.tokenizer
        return text_ids(tokenizer, render_prompt(tokenizer, conversation, add_generation_prompt, variables))

    def grammar(self, request: ChatRequest) -> Grammar | None:
        """Return what the replies to a request are held to, if anything; compiling it may take seconds."""
        return request_grammar(request, self.loaded.tokenizer, self.loaded.grammars)

    def describe(self, entries: Sequence[EngineLogprob], by_id: bool = False) -> list[TokenLogprob]:
        """Return log-probabilities with their tokens' texts, or named `by_id`, as several may share a text."""
        return [self._describe(entry, by_id) for entry in entries]

    def _describe(self, entry: EngineLogprob, by_id: bool) -> TokenLogprob:
        text, raw = (_id_name(entry.token_id), b"") if by_id else token_text(self.loaded.tokenizer, entry.token_id)
        top = tuple(self._describe(EngineLogprob(id, value), by_id) for id, value in entry.top)
        return TokenLogprob(text, raw, entry.logprob, top)

    def texts(self, token_ids: Sequence[int], by_id: bool = False) -> tuple[str, ...]:
        """Return the text of each token, or `by_id` its name."""
        if by_id:
            return tuple(map(_id_name, token_ids))
        return tuple(token_text(self.loaded.tokenizer, id)[0] for id in token_ids)


def _id_name(token_id: int) -> str:
    return f"{TOKEN_ID}{token_id}"


class Metrics:
    """The worker's Prometheus metrics: counters, gauges and histograms (seconds), in a registry of their own."""

    def __init__(self, load: Callable[[], tuple[int, int]]) -> None:
        """`load` returns how many sequences run and how many wait."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "mafunzo_requests", "Requests answered, by how they ended", ["outcome"], registry=self._registry
        )
        self.prompt_tokens = Counter("mafunzo_prompt_tokens", "Tokens of prompts", registry=self._registry)
        self.cached_prompt_tokens = Counter(
            "mafunzo_cached_prompt_tokens",
            "Tokens of prompts that were in the prefix cache, and so weren't computed",
            registry=self._registry,
        )
        self.generated_tokens = Counter("mafunzo_generated_tokens", "Tokens generated", registry=self._registry)
        self.first_token_s = Histogram(
            "mafunzo_time_to_first_token_seconds",
            "From the request to the first token, time in the queue included",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.request_s = Histogram(
            "mafunzo_request_seconds", "From the request to its end", buckets=SECONDS, registry=self._registry
        )
        running = Gauge("mafunzo_sequences_running", "Sequences in the batch", registry=self._registry)
        waiting = Gauge("mafunzo_sequences_waiting", "Sequences in the queue", registry=self._registry)
        running.set_function(lambda: load()[0])
        waiting.set_function(lambda: load()[1])

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


async def json_body(request: Request) -> Any:
    """Return a request's body as JSON; raises `InvalidParameter` for what can't be processed."""
    return parse_body(await request.body())


def model_of(body: Any) -> Any:
    """Return what a request's body calls the model that is to answer, whatever else is wrong with it."""
    return body.get("model") if isinstance(body, dict) else None
