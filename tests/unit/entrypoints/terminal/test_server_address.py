"""Tests of `mafunzo.entrypoints.terminal.server_address`: where a server is found, with what the ways in add."""

from pathlib import Path
from typing import Any

import pytest

from mafunzo.entities.server_address import ServerAddress
from mafunzo.entrypoints.terminal import server_address
from mafunzo.entrypoints.terminal.server_address import add_way_in, address_facts, address_lines

HOME = Path("/home/amina/.mafunzo")


def address(https_port: int | None = None, listen: str = "127.0.0.1") -> ServerAddress:
    return ServerAddress(7, 1.0, 8080, "2026-01-01T00:00:00+00:00", https_port, listen)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No way in has added itself."""
    monkeypatch.setattr(server_address, "_ways_in", [])


def test_by_itself_a_server_is_found_in_openais_dialect() -> None:
    first, last = address_lines(address(), HOME)
    assert first.startswith("OpenAI's dialect  http://127.0.0.1:8080/v1, ")
    assert last == f"Process           7, home {HOME}. It ends with: mafunzo down"
    assert address_facts(address(), HOME) == {
        "listen": "127.0.0.1",
        "openai": "http://127.0.0.1:8080/v1",
        "pid": 7,
        "home": HOME,
    }


def test_a_way_in_adds_its_line_and_its_facts_once() -> None:
    def way_in(of: ServerAddress, home: Path) -> tuple[str, dict[str, Any]]:
        return f"Door {of.port}", {"door": home / "key"}

    add_way_in(way_in)
    add_way_in(way_in)
    assert [line for line in address_lines(address(), HOME) if line.startswith("Door")] == ["Door 8080"]
    assert address_facts(address(), HOME)["door"] == HOME / "key"


@pytest.mark.parametrize(
    ("https_port", "end"),
    [
        pytest.param(8443, "mafunzo user list, mafunzo env --write-ca FILE", id="with a certificate"),
        pytest.param(None, "mafunzo user list", id="without an https port"),
    ],
)
def test_what_others_need_is_named_where_they_reach_it(https_port: int | None, end: str) -> None:
    (others,) = (line for line in address_lines(address(https_port, "0.0.0.0"), HOME) if line.startswith("For others"))
    assert others == f"For others        it listens on 0.0.0.0: {end}"
