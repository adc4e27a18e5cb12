"""Nonsense on both ports: refused with no 5xx, no hang and nothing stored, while right requests in between succeed."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mafunzo import Workspace
from mafunzo.entities.server_address import ServerAddress
from tests.faults.fuzz import Fuzzer, Result, stored
from tests.faults.result import write_result
from tests.support.waiting import until


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace whose server is up, and is ended at the end with the proof that nothing is left."""
    with Workspace(tmp_path / "home", port=0) as opened:
        opened.up()
        yield opened
        opened.down()


def rage(workspace: Workspace, seed: int, count: int) -> Result:
    """Run the fuzzer on a server, and look at what is left of it."""
    fuzzer = Fuzzer(workspace)
    assert fuzzer.check_right_requests() == []
    result = fuzzer.run(seed, count)
    result.faults += fuzzer.check_right_requests()
    result.faults += [f"stored: {name}" for name in stored(workspace) if "evil" in name]
    result.faults += [f"left: {name}" for name in stored(workspace) if "uploads/.draft" in name]
    until(lambda: not connections_left(workspace.up()), lambda: f"Still open: {connections_left(workspace.up())}")
    log = (workspace.home.logs / "server.log").read_text(errors="replace")
    result.faults += [f"in the log: {part[-1500:]}" for part in log.split("Traceback")[1:]]
    return result


def connections_left(address: ServerAddress) -> list[str]:
    """Return the connections of the server that aren't its own listening."""
    found = psutil.Process(address.pid).net_connections("tcp")
    ports = (address.port, address.https_port)
    return [str(one) for one in found if one.status != psutil.CONN_LISTEN and one.laddr.port in ports]


def test_two_hundred_broken_requests_break_nothing(workspace: Workspace) -> None:
    result = rage(workspace, seed=2, count=200)
    assert result.faults == []
    assert result.requests == 200 and result.right_requests == 20
    assert result.statuses["4xx"] > 50 and result.statuses["2xx"] > 2  # that it went deep, too


@pytest.mark.slow
def test_two_thousand_broken_requests_break_nothing(workspace: Workspace) -> None:
    result = rage(workspace, seed=0, count=2000)
    assert result.faults == []
    assert result.requests == 2000 and result.right_requests == 200
    assert result.statuses["4xx"] > 500 and result.statuses["2xx"] > 20  # that it went deep, too


@pytest.mark.soak
@pytest.mark.timeout(2 * 3600)
def test_twenty_thousand_broken_requests_break_nothing(workspace: Workspace) -> None:
    result = rage(workspace, seed=1, count=20_000)
    write_result("soak_fuzz", "broken requests on both ports, a right one after every tenth", vars(result))
    assert result.faults == []
