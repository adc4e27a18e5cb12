"""Prompts and answers of the deployments that were asked to keep them: `<home>/requests/<reference>/<day>.jsonl`, one a line.

The reference names what answered (`entities/serving.py`), and begins each id of its answers. Files are readable by their owner
only; `mafunzo prune` deletes the old ones. No client waits for a line to be written.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mafunzo.control.serving.answer import Answer, PassedAnswer
from mafunzo.control.serving.mirror import text_of
from mafunzo.control.store.home import Home
from mafunzo.tracking.regular_file import open_regular

logger = logging.getLogger(__name__)

FOLDER = "requests"


@dataclass(frozen=True)
class LoggedRequest:
    """One request and its answer. at: its end, in ISO 8601. status: how it went, as HTTP says it; 499 for one whose client left
    before its end. request: the JSON body. answer: what was said, as far as it went."""

    id: str
    at: str
    endpoint: str
    deployment: str
    model: str
    path: str
    status: int
    request: Any
    answer: str


Append = Callable[[str, LoggedRequest], None]
"""Keeps a request under a reference; called in a thread."""


class RequestLog:
    """Writes the requests of one router behind their clients' backs."""

    def __init__(self, append: Append) -> None:
        self._append = append
        self._tasks: set[asyncio.Task[None]] = set()

    def watched(self, answer: Answer, reference: str, tell: Callable[[int, bytes], LoggedRequest]) -> Answer:
        """Return an answer that is kept under a reference when it ends, whatever ends it: `tell` makes the entry of it."""
        return _Logged(answer, lambda status, content: self._keep(reference, tell(status, content)))

    async def close(self) -> None:
        """Wait until all is written."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, reference: str, entry: LoggedRequest) -> None:
        task = asyncio.create_task(self._write(reference, entry))
        self._tasks.add(task)  # the event loop itself keeps no reference
        task.add_done_callback(self._tasks.discard)

    async def _write(self, reference: str, entry: LoggedRequest) -> None:
        try:
            await asyncio.to_thread(self._append, reference, entry)
        except OSError as error:
            logger.warning("Request %s wasn't kept: %s", entry.id, error)


class _Logged(PassedAnswer):
    """An answer whose content is handed on once, when it has ended or is given up."""

    def __init__(self, answer: Answer, tell: Callable[[int, bytes], None]) -> None:
        super().__init__(answer)
        self._tell, self._content, self._is_told = tell, bytearray(), False

    async def read(self) -> bytes:
        content = await self._answer.read()
        self._content += content
        self._end()
        return content

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.chunks():
            self._content += chunk
            yield chunk
        self._end()

    def close(self) -> None:
        self._answer.close()
        self._end()

    def _end(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._tell(self.outcome, bytes(self._content))


def entry_of(
    answer_id: str, endpoint: str, deployment: str, model: str, path: str, body: bytes, status: int, content: bytes
) -> LoggedRequest:
    """Return what is kept of a request with `body` and of its answer's content, whole or a stream."""
    moment = datetime.now(UTC).isoformat()
    request = json.loads(body)  # a worker has answered it, so that it is JSON
    return LoggedRequest(answer_id, moment, endpoint, deployment, model, path, status, request, text_of(content))


def append(home: Home, reference: str, entry: LoggedRequest) -> None:
    """Keep a request. Raises `OSError`."""
    folder = home.root / FOLDER / reference
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = json.dumps(asdict(entry), ensure_ascii=False).encode("utf-8", errors="replace") + b"\n"
    descriptor = os.open(folder / f"{entry.at[:10]}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        with open(descriptor, "ab", buffering=0, closefd=False) as file:
            file.write(line)
    finally:
        os.close(descriptor)


def find(home: Home, reference: str, answer_id: str) -> LoggedRequest | None:
    """Return a kept request by the id of its answer, or None."""
    for path in sorted((home.root / FOLDER / reference).glob("*.jsonl"), reverse=True):
        for line in _lines(path, answer_id.encode()):
            try:
                entry = LoggedRequest(**json.loads(line))
            except (ValueError, TypeError):  # cut off by a crash
                continue
            if entry.id == answer_id:
                return entry
    return None


def log_files(home: Home) -> list[Path]:
    """Return the files that requests are kept in."""
    return sorted((home.root / FOLDER).glob("*/*.jsonl"))


def _lines(path: Path, text: bytes) -> Iterator[bytes]:
    try:
        with open_regular(path) as file:
            yield from (line for line in file if text in line)
    except FileNotFoundError:  # pruned meanwhile
        return
