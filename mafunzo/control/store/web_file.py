"""Downloading a file from a URL that a user names: whether it can be had, and fetching it whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mafunzo.errors import InvalidFile

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
LIMIT_S = 240.0
"""For how long a file may take: clients of the server wait some 300 s for an answer."""


def file_name(url: str) -> str:
    """Return what a fetched file is called: the last part of its address."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return name if name not in ("", "..") and "\0" not in name else "file"


def require_file(where: str, url: str) -> None:
    """Ask for a file and take nothing of it. Raises `InvalidFile`, which begins with `where`, if it can't be had."""
    with _answer(where, url):
        pass


def fetch(where: str, url: str, folder: Path) -> Path:
    """Write a file into `folder` under its own name and return its path.

    Raises `InvalidFile`, which begins with `where`, if it can't be had whole within `LIMIT_S`.
    """
    path, deadline = folder / file_name(url), monotonic() + LIMIT_S
    with _answer(where, url) as answer, path.open("wb") as file:
        for block in answer.iter_bytes(2**20):
            file.write(block)
            if monotonic() > deadline:
                raise InvalidFile(f"{where} is '{url}', which takes longer than {LIMIT_S:.0f} s. {_ADVICE}")
    return path


_ADVICE = "Fetch it first, and name the local path."


@contextmanager
def _answer(where: str, url: str) -> "Iterator[httpx.Response]":
    import httpx

    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=timeout) as answer:
            answer.raise_for_status()
            yield answer
    except httpx.HTTPStatusError as error:
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        raise InvalidFile(
            f"{where} is '{url}', which the server there answers with {status}. Check the address."
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InvalidFile(f"{where} is '{url}', which can't be fetched ({error}). {_ADVICE}") from error
