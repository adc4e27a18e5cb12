"""The certificate of the https port: signed by a local authority whose key is thrown away once it has signed.

<home>/tls/   authority.pem (what clients trust), server.pem, server.key, bundle.pem (certifi's list and the authority), and
              authorities/, the same as a folder, for clients that would parse the whole bundle for each session
"""

import ipaddress
import logging
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mafunzo.control.workspace import Home
from mafunzo.entrypoints.http.authority_folder import authority_files, write_folder

logger = logging.getLogger(__name__)

LIFETIME = timedelta(days=365)
RENEWED_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class Certificate:
    """Files that only their user can read, but for `authority`, `bundle` and the folder `authorities`, which are no secrets."""

    authority: Path
    bundle: Path
    authorities: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return the server's side of TLS 1.2 and later."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        return context


def files(home: Home) -> Certificate:
    """Return where the home's certificate is, or will be once a server has started."""
    folder = home.root / "tls"
    names = ("authority.pem", "bundle.pem", "authorities", "server.pem", "server.key")
    return Certificate(*(folder / name for name in names))


def certificate(
    home: Home, names: Sequence[str], authorities: Path | None = None, now: datetime | None = None
) -> Certificate:
    """Return the home's certificate, made on first use and anew a month before it ends, or when it lacks one of `names`.

    Its bundle holds `authorities`, a file or a folder (default: the public ones), beside ours, as clients trust one only.
    """
    paths = files(home)
    paths.key.parent.mkdir(mode=0o700, exist_ok=True)
    if not _is_good(paths, names, now or datetime.now(UTC)):
        _make(paths, names, now or datetime.now(UTC))
        logger.info("Made a certificate for %s, which %s vouches for", ", ".join(names), paths.authority)
    bundle = _others(paths, authorities).rstrip() + b"\n" + paths.authority.read_bytes()
    _write(paths.bundle, bundle)
    write_folder(paths.authorities, authority_files(bundle))
    return paths


def _others(paths: Certificate, authorities: Path | None) -> bytes:
    """Return the authorities beside ours; those already in the bundle where the user trusts the bundle itself."""
    if authorities is None or not authorities.exists():
        return Path(certifi.where()).read_bytes()
    if any(own.exists() and authorities.samefile(own) for own in (paths.bundle, paths.authorities)):
        return paths.bundle.read_bytes().rpartition(b"-----BEGIN CERTIFICATE-----")[0]
    if authorities.is_dir():
        return b"\n".join(path.read_bytes() for path in sorted(authorities.iterdir()) if path.is_file())
    return authorities.read_bytes()


def fingerprint(certificate_file: Path) -> str:
    """Return the SHA-256 of a certificate, as people compare it and `openssl x509 -fingerprint -sha256` prints it."""
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _is_good(paths: Certificate, names: Sequence[str], now: datetime) -> bool:
    try:
        leaf = x509.load_pem_x509_certificate(paths.certificate.read_bytes())
        authority = x509.load_pem_x509_certificate(paths.authority.read_bytes())
        leaf.verify_directly_issued_by(authority)
        key = serialization.load_pem_private_key(paths.key.read_bytes(), None)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    of_leaf = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    is_ours = leaf.public_key() == key.public_key()
    return is_ours and set(_general_names(names)) <= set(of_leaf) and leaf.not_valid_after_utc - now > RENEWED_BEFORE


def _make(paths: Certificate, names: Sequence[str], now: datetime) -> None:
    """Make an authority and the certificate that it signs. Its key exists in this function only."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Mafunzo local authority")])
    begin, end = now - timedelta(hours=1), now + LIFETIME
    authority = (
        x509.CertificateBuilder(issuer, issuer, authority_key.public_key(), x509.random_serial_number(), begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    leaf = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), begin, end)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(paths.authority, authority.public_bytes(serialization.Encoding.PEM))
    _write(paths.certificate, leaf.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(paths.key, private)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    general_names: list[x509.GeneralName] = []
    for name in names:
        try:
            general_names.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            general_names.append(x509.DNSName(name))
    return general_names


def _write(path: Path, body: bytes) -> None:
    """Write a file whole or not at all, for its user only."""
    draft = path.with_suffix(f"{path.suffix}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(body)
    draft.replace(path)
