"""Where a server is found, and with what: lines for people, facts for programs. A way in adds its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mafunzo.entities.server_address import ServerAddress

WayIn = Callable[[ServerAddress, Path], tuple[str, Mapping[str, Any]]]
"""Returns how a way in is found on the server of a home: its line for people, and its facts by name."""
_ways_in: list[WayIn] = []


def add_way_in(way_in: WayIn) -> None:
    """Let both say how a way in is found, from now on in this process. Idempotent."""
    if way_in not in _ways_in:
        _ways_in.append(way_in)


def address_lines(address: ServerAddress, home: Path) -> list[str]:
    """Return where a server is found, and with what, for people."""
    certificate = "" if address.https_port is None else ", mafunzo env --write-ca FILE"
    others = f"For others        it listens on {address.listen}: mafunzo user list{certificate}"
    return [
        f"OpenAI's dialect  {address.url}/v1, with an endpoint's key: mafunzo endpoint keys NAME",
        *(way_in(address, home)[0] for way_in in _ways_in),
        *([] if address.is_private else [others]),
        f"Process           {address.pid}, home {home}. It ends with: mafunzo down",
    ]


def address_facts(address: ServerAddress, home: Path) -> dict[str, Any]:
    """Return the same by name, for programs."""
    facts = {"listen": address.listen, "openai": f"{address.url}/v1"}
    for way_in in _ways_in:
        facts |= way_in(address, home)[1]
    return {**facts, "pid": address.pid, "home": home}
