"""Where the server listens: the loopback interface, or for a team an address of this machine; and its names there."""

import errno
import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

from mafunzo.entities.server_address import LOOPBACK
from mafunzo.entities.user import Role, User
from mafunzo.entrypoints.http.limits import DEFAULTS
from mafunzo.errors import Faults, InvalidParameter, PortInUse, RefusedError

LOOPBACK_NAMES = ("127.0.0.1", "::1", "localhost")
LONGEST_NAME = 253
_LABEL = "[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)


def require_owner(address: str, users: Iterable[User]) -> None:
    """Raise `RefusedError` for another address than the loopback interface's own, unless one of `users` is an owner."""
    has_owner = any(user.role is Role.OWNER and not user.is_revoked for user in users)
    if address != LOOPBACK and not has_owner:
        raise RefusedError(
            f"--listen {address} opens this home to others, and it has no user with the role owner. Make one first: "
            "mafunzo user create NAME --role owner"
        )


def names_of(address: str) -> tuple[str, ...]:
    """Return what clients may call a server that listens on `address`; raises `InvalidParameter` for no address.

    For 0.0.0.0 and :: these are all addresses that the machine has now.
    """
    if address == LOOPBACK:
        return LOOPBACK_NAMES
    own = [address]
    if _parsed(address).is_unspecified:
        own = [*LOOPBACK_NAMES, *_addresses_like(address)]
    host = socket.gethostname().lower()
    return tuple(dict.fromkeys([*own, host, socket.getfqdn().lower(), f"{host.partition('.')[0]}.local"]))


def host_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the names beside its own that the operator gives the server; raises `InvalidParameter` with all faults.

    No pattern is one: any name would let in what resolves any name to this machine (DNS rebinding).
    """
    faults = Faults()
    faults.add(
        *(
            f"MAFUNZO_HOST_NAMES has '{text}', expected a host name or an IP address, without a port, a pattern or brackets."
            for text in texts
            if not _is_name(text)
        )
    )
    faults.require_none("The server's names can't be read from its environment.")
    return tuple(text.lower() for text in texts)


def _is_name(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(_NAME.fullmatch(text)) and len(text) <= LONGEST_NAME
    return True


@contextmanager
def listen(
    port: int,
    option: str = "--port",
    address: str = LOOPBACK,
    connections_waiting: int = DEFAULTS.connections_waiting,
) -> Iterator[socket.socket]:
    """Yield a socket that has `port` of `address`; raises `PortInUse` and names who has it, or `InvalidParameter`.

    `option` chooses another port. connections_waiting: how many may wait until they are taken.
    """
    family = socket.AF_INET if _parsed(address).version == 4 else socket.AF_INET6
    # The protocol is named because asyncio turns Nagle's delay (40 ms an answer) off only for a socket that names it.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(connections_waiting)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                known = ", ".join(_addresses_like(address))
                raise InvalidParameter(f"--listen is {address}, which this machine hasn't. It has {known}.") from error
            raise PortInUse(
                f"Port {port} is in use by {_holder_of(port)}. End it, or pass another {option} (0 takes a free one)."
            ) from error
        yield listener


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(address)
    except ValueError as error:
        raise InvalidParameter(
            f"--listen is '{address}', expected an IP address of this machine, or 0.0.0.0 for all of them."
        ) from error


def _addresses_like(address: str) -> list[str]:
    """Return this machine's addresses that a socket on `address` could have; without those that hold on one link only."""
    is_ipv4 = _parsed(address).version == 4
    families = {socket.AF_INET} if is_ipv4 else {socket.AF_INET, socket.AF_INET6}
    addresses = [
        one for of_interface in psutil.net_if_addrs().values() for one in of_interface if one.family in families
    ]
    return sorted({one.address for one in addresses if "%" not in one.address})


def _holder_of(port: int) -> str:
    with suppress(psutil.AccessDenied, psutil.NoSuchProcess):
        for connection in psutil.net_connections("tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN and connection.pid
            if is_listening and connection.laddr and connection.laddr.port == port:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another process"
