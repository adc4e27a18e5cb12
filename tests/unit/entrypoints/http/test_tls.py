"""The certificate of the https port: what clients trust, and when it is made anew."""

import socket
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mafunzo.control.store.home import Home
from mafunzo.entrypoints.http.listen import LOOPBACK_NAMES
from mafunzo.entrypoints.http.tls import LIFETIME, RENEWED_BEFORE, Certificate, certificate, fingerprint


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def name_that_is_served(found: Certificate, name: str) -> str:
    """Shake hands over a real socket with a client that trusts only the authority; return the version of TLS."""
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=lambda: found.context().wrap_socket(ours, server_side=True).close())
    server.start()
    try:
        with ssl.create_default_context(cafile=found.authority).wrap_socket(theirs, server_hostname=name) as client:
            return str(client.version())
    finally:
        server.join()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_client_that_trusts_the_authority_trusts_the_server(home: Home, name: str) -> None:
    assert name_that_is_served(certificate(home, LOOPBACK_NAMES), name) == "TLSv1.3"


def test_it_is_kept_from_start_to_start(home: Home) -> None:
    before = certificate(home, LOOPBACK_NAMES).certificate.read_bytes()
    assert certificate(home, LOOPBACK_NAMES).certificate.read_bytes() == before


@pytest.mark.parametrize(
    "reason", ["it ends soon", "another key lies there", "it is cut off", "the authority is another's", "a name more"]
)
def test_it_is_made_anew_when_it_no_longer_serves(home: Home, tmp_path: Path, reason: str) -> None:
    found = certificate(home, LOOPBACK_NAMES)
    before = found.certificate.read_bytes()
    other = certificate(Home(tmp_path / "other"), LOOPBACK_NAMES)
    now, names = datetime.now(UTC), LOOPBACK_NAMES
    match reason:
        case "it ends soon":
            now += LIFETIME - RENEWED_BEFORE + timedelta(hours=1)
        case "another key lies there":
            found.key.write_bytes(other.key.read_bytes())
        case "it is cut off":
            found.certificate.write_bytes(before[:100])
        case "the authority is another's":
            found.authority.write_bytes(other.authority.read_bytes())
        case "a name more":
            names = (*LOOPBACK_NAMES, "host.test")
    assert certificate(home, names, now=now).certificate.read_bytes() != before


def test_a_name_less_needs_no_other_certificate(home: Home) -> None:
    before = certificate(home, (*LOOPBACK_NAMES, "host.test")).certificate.read_bytes()
    assert certificate(home, LOOPBACK_NAMES).certificate.read_bytes() == before


def test_its_fingerprint_is_what_openssl_prints(home: Home) -> None:
    found = certificate(home, LOOPBACK_NAMES).authority
    argv = ["openssl", "x509", "-in", str(found), "-noout", "-fingerprint", "-sha256"]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert told.strip().partition("=")[2] == fingerprint(found)


def test_no_key_of_the_authority_is_kept_and_nobody_else_reads_the_servers(home: Home) -> None:
    found = certificate(home, LOOPBACK_NAMES)
    files = [path for path in found.key.parent.rglob("*") if path.is_file()]
    keys = [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
    assert keys == [found.key]
    assert stat.S_IMODE(found.key.stat().st_mode) == 0o600


def test_the_bundle_holds_the_public_authorities_too(home: Home) -> None:
    found = certificate(home, LOOPBACK_NAMES)
    text = found.bundle.read_text()
    assert found.authority.read_text() in text
    assert text.count("BEGIN CERTIFICATE") > 100


def test_what_the_user_trusts_is_in_the_bundle_and_stays_there(home: Home, tmp_path: Path) -> None:
    """A server that is started from a program that `mafunzo run` runs is told of the bundle itself."""
    (tmp_path / "company.pem").write_text("-----BEGIN CERTIFICATE-----\ncompany\n-----END CERTIFICATE-----\n")
    bundle = certificate(home, LOOPBACK_NAMES, tmp_path / "company.pem").bundle
    before = bundle.read_text()
    assert "company" in before and before.count("BEGIN CERTIFICATE") == 2
    for own in (bundle, bundle.parent / "authorities"):
        assert certificate(home, LOOPBACK_NAMES, own).bundle.read_text() == before
    (tmp_path / "folder").mkdir()
    (tmp_path / "company.pem").rename(tmp_path / "folder" / "company.pem")
    assert certificate(home, LOOPBACK_NAMES, tmp_path / "folder").bundle.read_text() == before
    assert certificate(home, LOOPBACK_NAMES, tmp_path / "gone.pem").bundle.read_text().count("BEGIN CERTIFICATE") > 100
