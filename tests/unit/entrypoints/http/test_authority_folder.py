"""Tests of `mafunzo.entrypoints.http.authority_folder`: authorities as OpenSSL looks them up."""

import socket
import ssl
import threading
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from mafunzo.control.workspace import Home
from mafunzo.entrypoints.http.authority_folder import PEM, authority_files, subject_hash, write_folder
from mafunzo.entrypoints.http.listen import LOOPBACK_NAMES
from mafunzo.entrypoints.http.tls import certificate


@pytest.mark.parametrize(
    ("words", "digest"),
    [
        pytest.param(
            {
                NameOID.COUNTRY_NAME: "US",
                NameOID.ORGANIZATION_NAME: "Internet Security Research Group",
                NameOID.COMMON_NAME: "ISRG Root X1",
            },
            "4042bcee",
            id="a known authority",
        ),
        pytest.param({NameOID.COMMON_NAME: "  Árvíztűrő \t Fő  "}, "bd52fd08", id="spaces and letters beyond ASCII"),
        pytest.param({NameOID.COMMON_NAME: "x" * 64, NameOID.ORGANIZATION_NAME: "y" * 64}, "e3edceb4", id="long"),
    ],
)
def test_a_subject_has_openssl_s_hash(words: dict[x509.ObjectIdentifier, str], digest: str) -> None:
    assert subject_hash(x509.Name([x509.NameAttribute(oid, text) for oid, text in words.items()])) == digest


def test_every_public_authority_has_a_file_of_its_own() -> None:
    bundle = Path(certifi.where()).read_bytes()
    files = authority_files(bundle + b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    assert len(files) == len(PEM.findall(bundle)) > 100


def test_authorities_of_one_name_are_numbered() -> None:
    first = PEM.findall(Path(certifi.where()).read_bytes())[0]
    (name, again) = authority_files(first + b"\n" + first)
    assert (name[-2:], again) == (".0", name[:-1] + "1")


def test_a_folder_has_just_these_files(tmp_path: Path) -> None:
    write_folder(tmp_path / "to", {"a.0": b"1", "b.0": b"2"})
    before = (tmp_path / "to" / "a.0").stat().st_ino
    write_folder(tmp_path / "to", {"a.0": b"1", "c.0": b"3"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == {"a.0": b"1", "c.0": b"3"}
    assert (tmp_path / "to" / "a.0").stat().st_ino == before, "what is right stays"


def test_a_client_that_trusts_the_folder_trusts_the_server_and_no_other(tmp_path: Path) -> None:
    own, other = (certificate(Home(tmp_path / name), LOOPBACK_NAMES) for name in ("own", "other"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                try:
                    own.context().wrap_socket(connection, server_side=True).close()
                except ssl.SSLError:
                    connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        for folder, is_trusted in ((own.authorities, True), (other.authorities, False)):
            context = ssl.create_default_context(capath=folder)
            with socket.create_connection(listener.getsockname()) as plain:
                if is_trusted:
                    context.wrap_socket(plain, server_hostname="localhost").close()
                else:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        context.wrap_socket(plain, server_hostname="localhost")
        thread.join()
