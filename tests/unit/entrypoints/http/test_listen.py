"""Where a server listens, under which names, and for whom."""

import os
import re
import socket
from dataclasses import replace

import psutil
import pytest

from mafunzo.entities.user import Role, User
from mafunzo.entrypoints.http.listen import LOOPBACK_NAMES, host_names, listen, names_of, require_owner
from mafunzo.errors import InvalidParameter, PortInUse, RefusedError

CONTRIBUTOR = User("juma", Role.CONTRIBUTOR, token_id="1")
OWNER = User("amina", Role.OWNER, token_id="2")


def test_port_0_takes_a_free_one_on_loopback_only() -> None:
    with listen(0) as listener:
        host, port = listener.getsockname()
        assert (host, port > 0) == ("127.0.0.1", True)


def test_a_taken_port_names_who_has_it() -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
        told = re.escape(f"Port {port} is in use by process {os.getpid()} (")
        with pytest.raises(PortInUse, match=told), listen(port):
            pass


def test_a_port_is_free_again_at_once() -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
    with listen(port) as again:
        assert again.getsockname()[1] == port


@pytest.mark.parametrize("address", ["127.0.0.2", "0.0.0.0", "::1"])
def test_another_address_is_listened_on(address: str) -> None:
    with listen(0, address=address) as listener:
        assert listener.getsockname()[0] == address


@pytest.mark.parametrize(
    ("address", "told"),
    [("gpu-box", "expected an IP address of this machine"), ("203.0.113.7", "this machine hasn't. It has .*127.0.0.1")],
)
def test_what_is_no_address_of_this_machine_is_refused(address: str, told: str) -> None:
    with pytest.raises(InvalidParameter, match=f"--listen is '?{address}.*{told}"), listen(0, address=address):
        pass


def test_the_names_are_the_address_and_the_host_s() -> None:
    host = socket.gethostname().lower()
    assert names_of("127.0.0.1") == LOOPBACK_NAMES
    assert {"127.0.0.2", host} <= set(names_of("127.0.0.2"))
    assert "127.0.0.1" not in names_of("127.0.0.2")
    own = {one.address for found in psutil.net_if_addrs().values() for one in found if one.family == socket.AF_INET}
    assert own | {*LOOPBACK_NAMES, host} <= set(names_of("0.0.0.0"))


@pytest.mark.parametrize("users", [[], [CONTRIBUTOR], [replace(OWNER, is_revoked=True)]])
def test_nobody_is_let_in_from_elsewhere_before_there_is_an_owner(users: list[User]) -> None:
    require_owner("127.0.0.1", users)
    with pytest.raises(RefusedError, match="mafunzo user create NAME --role owner") as refused:
        require_owner("0.0.0.0", users)
    assert refused.value.exit_code == 3
    require_owner("0.0.0.0", [*users, OWNER])


def test_an_operator_gives_the_server_more_names() -> None:
    assert host_names(["Chat.example.org", "gpu_box", "10.0.0.7", "fd00::1"]) == (
        "chat.example.org",
        "gpu_box",
        "10.0.0.7",
        "fd00::1",
    )


def test_all_that_is_no_name_is_told_at_once() -> None:
    texts = ["*", "*.example.org", "a.org:8080", "https://a.org", "[::1]", "a..b", "-a", "a b", "x" * 254]
    with pytest.raises(InvalidParameter) as caught:
        host_names(["good.org", *texts])
    assert [fault.split("'")[1] for fault in caught.value.faults] == texts
