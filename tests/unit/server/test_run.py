"""The port of a server."""

import os
import re

import pytest

from mafunzo.errors import PortInUse
from mafunzo.server.run import listen


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
