"""Answer every row of a file with a model, at full batch, row by row what became of it: `--help` says what it takes."""

if __name__ == "__main__":  # before anything else imports transformers
    from mafunzo.compute.model.quick_start import import_networks

    import_networks()

import hashlib
import json
import logging
import queue
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mafunzo.compute.chat.prompt import render_prompt
from mafunzo.compute.chat.template import text_ids
from mafunzo.compute.components.command import Arguments, run
from mafunzo.compute.components.predictions import Predictions
from mafunzo.compute.inference.loading import LoadedModel, load_model
from mafunzo.compute.inference.request import Event, Failed, Finished, GenerationRequest, Reply
from mafunzo.compute.inference.sampler import Sampling
from mafunzo.compute.model.folder import read_facts, sha256
from mafunzo.dataset.check import kind_of
from mafunzo.dataset.files import Source, open_source
from mafunzo.dataset.question import Question, read_questions
from mafunzo.entities.parameters.score import scoring_faults, stop_texts
from mafunzo.errors import InvalidData, InvalidParameter, MafunzoError, WorkerFailed
from mafunzo.protocol.chat import ChatRequest, Heading, Options, Usage
from mafunzo.protocol.stream import ChatReply, whole_chat
from mafunzo.tracking.progress import Progress
from mafunzo.tracking.step_folder import TERMINATED, earlier_outputs
from mafunzo.tracking.termination import at_sigterm

logger = logging.getLogger(__name__)

AHEAD = 2
"""Rows that are rendered and wait in the engine's queue, for each that it answers: none of its places is ever empty."""
SHOWN_REASONS = 10


@dataclass(frozen=True)
class BatchScoreArguments:
    """The batch_score step's parameters, each under its own name."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: str | None
    max_batch: int
    save_interval_s: float
    output_file_name: str
    error_threshold: int

    @property
    def decisive(self) -> dict[str, Any]:
        """Those that an answer follows from."""
        others = ("max_batch", "save_interval_s", "error_threshold", "output_file_name")
        return {name: value for name, value in asdict(self).items() if name not in others}

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return stop_texts(self.stop) or ()


@dataclass
class Tally:
    """What became of the rows: counts, tokens, and the reasons of those that failed."""

    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a line of the predictions."""
        if "error" in line:
            self.failed += 1
            self.reasons[kind_of(line["error"]["message"])] += 1
            return
        self.answered += 1
        self.prompt_tokens += line["usage"]["prompt_tokens"]
        self.completion_tokens += line["usage"]["completion_tokens"]
        self.finish_reasons[line["finish_reason"]] += 1

    @property
    def numbers(self) -> dict[str, float]:
        """The counts, as metrics."""
        names = ("answered", "failed", "prompt_tokens", "completion_tokens")
        return {name: getattr(self, name) for name in names}

    @property
    def kinds(self) -> dict[str, dict[str, int]]:
        """How answers ended, and why most rows failed that did, each with how many rows there are."""
        return {"finish_reasons": dict(self.finish_reasons), "errors": dict(self.reasons.most_common(SHOWN_REASONS))}

    def require_few_failures(self, error_threshold: int) -> None:
        """Raise `InvalidData` where more rows failed than may; -1 stands for any number."""
        if 0 <= error_threshold < self.failed:
            raise InvalidData(f"{self.failed} rows failed, and error_threshold is {error_threshold}.", self.faults())

    def faults(self) -> list[str]:
        """Return the most frequent reasons, each with how many rows have it."""
        return [f"{count} rows: {reason}" for reason, count in self.reasons.most_common(SHOWN_REASONS)]


def work(arguments: Arguments) -> None:
    """Write `predictions.jsonl` and `report.json`; a row that can't be answered gets its error in the answer's place."""
    values = BatchScoreArguments(**arguments.values)
    if faults := tuple(scoring_faults(arguments.values)):
        raise InvalidParameter("The rows can't be answered so.", faults)
    model, data = arguments.path("model"), arguments.path("data")
    output = arguments.outputs["predictions"]
    source = open_source(data)
    total = source.count()
    key = _key(model, source, values)
    predictions = Predictions(output, earlier_outputs(output), key, values.save_interval_s)
    if predictions.is_whole:
        logger.info("%s holds all predictions of this request already", output)
        predictions.drop_segments()
        return
    tally = Tally()
    for line in predictions.lines():
        tally.add(line)
    tally.require_few_failures(values.error_threshold)
    if predictions.done:
        logger.info("Going on: %d of %d rows are done", len(predictions.done), total)
    if len(predictions.done) < total:
        loaded = load_model(model, max_batch=values.max_batch)
        with closing(loaded.engine):
            _Scoring(loaded, values, predictions, tally, total).run(source)
    if not tally.answered:
        raise InvalidData("No row could be answered.", tally.faults())
    predictions.put_together(values.output_file_name, {"rows": total, **tally.numbers, **tally.kinds})
    arguments.metrics.log(0, tally.numbers)
    logger.info("%d of %d rows are answered, %d failed", tally.answered, total, tally.failed)


def _key(model: Path, source: Source, values: BatchScoreArguments) -> str:
    """Return a hash of all that predictions follow from."""
    facts = read_facts(model)
    weights = facts.get("weights_sha256") or [sha256(file) for file in sorted(model.rglob("*.safetensors"))]
    body = [weights, [sha256(file) for file in source.files], repr(source.reading), values.decisive]
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class _Scoring:
    """Keeps the engine full: rows are read and rendered as places in its queue become free, and taken as they are done."""

    def __init__(
        self,
        loaded: LoadedModel,
        values: BatchScoreArguments,
        predictions: Predictions,
        tally: Tally,
        total: int,
    ) -> None:
        self._engine, self._tokenizer = loaded.engine, loaded.tokenizer
        self._values, self._stops = values, values.stops
        self._predictions, self._tally = predictions, tally
        self._events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        self._open: dict[int, tuple[Question, Reply]] = {}
        self._pace = _Pace(total, len(predictions.done), tally.completion_tokens)
        self._is_stopping = False

    def run(self, source: Source) -> None:
        """Answer the rows that aren't done; what is done is written, however it ends. SIGTERM ends the process after that."""
        rows = (row for row in read_questions(source) if row.index not in self._predictions.done)
        with at_sigterm(self._note):
            try:
                while self._fill(rows) or self._open:
                    self._take(*self._events.get())
                    if self._is_stopping:
                        self._stop()
            finally:
                self._predictions.save()

    def _fill(self, rows: Iterator[Question]) -> bool:
        """Submit rows until enough wait; return whether any do."""
        while len(self._open) < AHEAD * self._values.max_batch and (row := next(rows, None)) is not None:
            if row.fault:
                self._fail(row, InvalidData(row.fault))
                continue
            try:
                self._submit(row)
            except MafunzoError as error:
                self._fail(row, error)
        return bool(self._open)

    def _submit(self, row: Question) -> None:
        values, index = self._values, row.index
        prompt = text_ids(self._tokenizer, render_prompt(self._tokenizer, row.conversation))
        sampling = Sampling(values.temperature, values.top_p, seed=values.seed + index)
        request = GenerationRequest(tuple(prompt), values.max_new_tokens, sampling, self._stops)
        self._engine.submit(request, lambda event: self._events.put((index, event)))
        self._open[index] = (row, Reply())

    def _take(self, index: int, event: Event) -> None:
        row, reply = self._open[index]
        if isinstance(event, Finished | Failed):
            del self._open[index]
        if isinstance(event, Finished):
            self._done(_line(row, _answer(row, reply.text, event)))
        elif not isinstance(event, Failed):
            reply.add(event)
        elif isinstance(event.error, WorkerFailed):  # the engine's fault, and no row's
            raise event.error
        else:
            self._fail(row, event.error)

    def _fail(self, row: Question, error: MafunzoError) -> None:
        self._done(_line(row, {"error": {"code": error.code, "message": error.message}}))
        self._tally.require_few_failures(self._values.error_threshold)

    def _done(self, line: Mapping[str, Any]) -> None:
        self._tally.add(line)
        self._predictions.add(line)
        self._pace.update(len(self._predictions.done), self._tally)

    def _stop(self) -> NoReturn:
        logger.info("SIGTERM: stopped after %d rows, and can go on from there", len(self._predictions.done))
        sys.exit(TERMINATED)

    def _note(self) -> None:
        self._is_stopping = True


class _Pace:
    """Tells how far the batch is, and how long the rest takes by what this run has done itself."""

    def __init__(self, total: int, done: int, tokens: int) -> None:
        self._progress = Progress("score", total)
        self._total, self._done_before, self._tokens_before = total, done, tokens
        self._start_s = time.monotonic()

    def update(self, done: int, tally: Tally) -> None:
        seconds = max(time.monotonic() - self._start_s, 1e-9)
        tokens_per_s = (tally.completion_tokens - self._tokens_before) / seconds
        eta_s = seconds / (done - self._done_before) * (self._total - done)
        failed = {"failed": tally.failed} if tally.failed else {}
        self._progress.update(done, eta_s, tokens_per_s=tokens_per_s, **failed)


def _line(row: Question, outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {"index": row.index, "file": row.file, "row": row.row, **row.conversation.as_dict(), **outcome}


def _answer(row: Question, text: str, finished: Finished) -> dict[str, Any]:
    """Return the answer as a worker would give it to a request: calls of tools apart from the text."""
    conversation = row.conversation
    request = ChatRequest(conversation, Options(), may_call_tools=bool(conversation.tools))
    usage = Usage(finished.prompt_tokens, finished.completion_tokens, finished.cached_tokens)
    body = whole_chat(Heading("", 0, ""), request, [ChatReply(text, finished.reason)], usage)
    (choice,) = body["choices"]
    calls = choice["message"].get("tool_calls")
    return {
        "answer": choice["message"]["content"],
        **({"tool_calls": calls} if calls else {}),
        "finish_reason": choice["finish_reason"],
        "usage": body["usage"],
    }


if __name__ == "__main__":
    run(__file__, work)
