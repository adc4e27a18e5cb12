"""Tests of `mafunzo.entities.server_address`: how this machine finds a server, wherever it listens."""

import pytest

from mafunzo.entities.server_address import ServerAddress


@pytest.mark.parametrize(
    ("listen", "host", "is_private"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("::", "[::1]", False),
        ("fe80::2", "[fe80::2]", False),
        ("192.168.0.7", "192.168.0.7", False),
    ],
)
def test_a_server_is_found_from_its_own_machine(listen: str, host: str, is_private: bool) -> None:
    address = ServerAddress(7, 1.0, 8080, "2026-01-01T00:00:00+00:00", 8443, listen)
    assert (address.url, address.https_url) == (f"http://{host}:8080", f"https://{host}:8443")
    assert address.is_private is is_private
