"""Files of the web: fetched whole, or refused with why."""

from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest

from mafunzo.control.store.web_file import fetch, file_name, require_file
from mafunzo.errors import InvalidFile


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "iris.csv").write_text("a,b\n")
    with HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/folder/iris%20data.csv?x=1", "iris data.csv"),
        ("https://host/", "file"),
        ("https://host/..", "file"),
        ("https://host/a%00b", "file"),
    ],
)
def test_a_fetched_file_is_called_as_its_address_ends(url: str, expected: str) -> None:
    assert file_name(url) == expected


def test_a_file_is_fetched_under_its_own_name(site: str, tmp_path: Path) -> None:
    require_file("data", f"{site}/iris.csv")
    assert fetch("data", f"{site}/iris.csv", tmp_path).read_text() == "a,b\n"


@pytest.mark.parametrize("ask", [require_file, lambda where, url: fetch(where, url, Path("/nowhere"))])
def test_what_the_server_does_not_have_is_refused_by_where_it_stood(ask: object, site: str) -> None:
    with pytest.raises(InvalidFile, match=r"data is '.*/none\.csv', which the server there answers with 404"):
        ask("data", f"{site}/none.csv")  # type: ignore[operator]


def test_an_address_that_nobody_answers_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidFile, match=r"which can't be fetched .* Fetch it first, and name the local path"):
        require_file("data", "http://127.0.0.1:1/x")
