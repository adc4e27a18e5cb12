"""Downloading a file from a URL that a user names: whether it can be had, and fetching it whole.

Whoever may submit a job chooses the address, and the server asks there: only https, and only hosts whose addresses are public,
so that nobody reads through it what this machine and its network show to their own. The rule holds for each redirect, and
the connection goes to the very address that was checked. An operator may list hosts that it doesn't hold for
(`MAFUNZO_INPUT_HOSTS`).
"""

import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from mafunzo.errors import InvalidFile

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
LIMIT_S = 240.0
"""For how long a file may take: clients of the server wait some 300 s for an answer."""
REDIRECTS = 10
NAT64 = IPv6Network("64:ff9b::/96")


def file_name(url: str) -> str:
    """Return what a fetched file is called: the last part of its address."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return name if name not in ("", "..") and "\0" not in name else "file"


def require_file(where: str, url: str, *hosts: str) -> None:
    """Ask for a file and take nothing of it; `hosts` are those that may be private.

    Raises `InvalidFile`, which begins with `where`, if it can't be had.
    """
    with _answer(where, url, hosts):
        pass


def fetch(where: str, url: str, folder: Path, *hosts: str) -> Path:
    """Write a file into `folder` under its own name and return its path.

    Raises `InvalidFile`, which begins with `where`, if it can't be had whole within `LIMIT_S`.
    """
    path, deadline = folder / file_name(url), monotonic() + LIMIT_S
    with _answer(where, url, hosts) as answer, path.open("wb") as file:
        for block in answer.iter_bytes(2**20):
            file.write(block)
            if monotonic() > deadline:
                raise InvalidFile(f"{where} is '{url}', which takes longer than {LIMIT_S:.0f} s. {_ADVICE}")
    return path


_ADVICE = "Fetch it first, and name the local path."


@contextmanager
def _answer(where: str, url: str, hosts: Collection[str]) -> "Iterator[httpx.Response]":
    import httpx

    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    target = httpx.URL(url)
    try:
        with httpx.Client(timeout=timeout) as client:
            for _ in range(REDIRECTS):
                address = _address(where, url, target, hosts)
                pinned = target.copy_with(host=address) if address else target
                headers = {"Host": target.netloc.decode("ascii")}
                names = {"sni_hostname": target.host}  # which the certificate is checked for
                with client.stream("GET", pinned, headers=headers, extensions=names) as answer:
                    if not answer.has_redirect_location:
                        answer.raise_for_status()
                        yield answer
                        return
                    target = target.join(answer.headers["location"])
        raise InvalidFile(f"{where} is '{url}', which leads on more than {REDIRECTS} times. {_ADVICE}")
    except httpx.HTTPStatusError as error:
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        raise InvalidFile(
            f"{where} is '{url}', which the server there answers with {status}. Check the address."
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InvalidFile(f"{where} is '{url}', which can't be fetched ({error}). {_ADVICE}") from error


class AddressRefused(Exception):
    """Why an address isn't asked. is_missing: its host isn't known, rather than one that may not be asked."""

    def __init__(self, reason: str, is_missing: bool = False) -> None:
        super().__init__(reason)
        self.is_missing = is_missing


def _address(where: str, url: str, target: "httpx.URL", hosts: Collection[str]) -> str | None:
    """Return the public address to connect to; None where the name itself may be asked. Raises `InvalidFile`."""
    try:
        return checked_address(target, hosts)
    except AddressRefused as error:
        if error.is_missing:
            raise InvalidFile(f"{where} is '{url}', which can't be fetched ({error}). {_ADVICE}") from error
        raise _refusal(where, url, str(error), target) from error


def checked_address(target: "httpx.URL", hosts: Collection[str]) -> str | None:
    """Return the public address to connect to; None where the name itself may be asked, as `hosts` list it.

    Raises `AddressRefused`.
    """
    if {target.host, target.netloc.decode()} & set(hosts):
        return None
    if target.scheme != "https":
        raise AddressRefused(f"{target} isn't an https:// address")
    try:
        found = [entry[4][0] for entry in socket.getaddrinfo(target.host, target.port or 443, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        if getproxies().get("https") and not proxy_bypass(target.host):  # which looks the name up itself
            return None
        raise AddressRefused(f"{target.host}: {error}", is_missing=True) from error
    private = [address for address in found if not _is_public(str(address))]
    if private or not found:
        raise AddressRefused(f"{target.host} is {', '.join(map(str, private))}, which isn't a public address")
    return str(found[0])


def _refusal(where: str, url: str, reason: str, target: "httpx.URL") -> InvalidFile:
    return InvalidFile(
        f"{where} is '{url}', which can't be fetched ({reason}). {_ADVICE} Or have the server's operator list "
        f"'{target.host}' in MAFUNZO_INPUT_HOSTS."
    )


def _is_public(address: str) -> bool:
    """Return whether an address is a public one, also the IPv4 address that one of IPv6 stands for."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        embedded = IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour
        ip = embedded or ip
    return ip.is_global and not ip.is_multicast
