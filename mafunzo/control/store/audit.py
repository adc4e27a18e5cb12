"""The audit log: `<home>/logs/audit.jsonl`, a line an entry, rotated by size to `audit.jsonl.1` ...; the oldest goes."""

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from mafunzo.control.store.codec import decode, encode
from mafunzo.control.store.home import Home
from mafunzo.entities.user import AuditEntry

logger = logging.getLogger(__name__)

LIMIT_BYTES = 10 * 2**20
FULL_FILES = 10
"""Rotated files that are kept beside the newest."""


class AuditLog:
    """Writes entries for one server, and reads them for anyone."""

    def __init__(self, home: Home, limit_bytes: int = LIMIT_BYTES, full_files: int = FULL_FILES) -> None:
        self._newest = home.logs / "audit.jsonl"
        self._limit_bytes, self._full_files = limit_bytes, full_files
        self._writing = threading.Lock()

    def append(self, entry: AuditEntry) -> None:
        """Write an entry. What can't be written (the disk is full) goes to the server's log: the request has happened."""
        line = json.dumps(encode(entry), ensure_ascii=False) + "\n"
        try:
            with self._writing:
                self._rotate()
                descriptor = os.open(self._newest, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                with open(descriptor, "a", encoding="utf-8") as file:
                    file.write(line)
        except OSError as error:
            logger.error("The audit log can't be written (%s): %s", error.strerror, line.rstrip())

    def read(self) -> Iterator[AuditEntry]:
        """Yield the entries, oldest first. A line that was cut off when a disk was full is left out, and said."""
        for file in [*(self._full(number) for number in range(self._full_files, 0, -1)), self._newest]:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except FileNotFoundError:
                continue
            for number, line in enumerate(lines, 1):
                try:
                    yield decode(AuditEntry, json.loads(line))
                except (ValueError, TypeError):
                    logger.warning("%s, line %d isn't a whole entry; it is left out", file, number)

    def _rotate(self) -> None:
        if not self._newest.exists() or self._newest.stat().st_size < self._limit_bytes:
            return
        for number in range(self._full_files - 1, 0, -1):
            if self._full(number).exists():
                self._full(number).replace(self._full(number + 1))
        self._newest.replace(self._full(1))

    def _full(self, number: int) -> Path:
        return self._newest.with_name(f"{self._newest.name}.{number}")
