"""A folder of certificate authorities as OpenSSL looks them up: by the hash of a subject's name, one file each.

A client that is given a file of authorities parses all of it for each session, some 140 certificates; of a folder it reads
those that it meets. The name is that of `openssl rehash`: eight hexadecimal digits, a dot, and a number.
"""

import hashlib
import re
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.utils import CryptographyDeprecationWarning

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _SET, _OBJECT_IDENTIFIER, _UTF8_TEXT = 0x30, 0x31, 0x06, 0x0C


def authority_files(bundle: bytes) -> dict[str, bytes]:
    """Return the files of a folder for the certificates of a bundle in PEM; what isn't one is left out."""
    files: dict[str, bytes] = {}
    numbers: Counter[str] = Counter()
    for certificate in _certificates(bundle):
        digest = subject_hash(certificate.subject)
        files[f"{digest}.{numbers[digest]}"] = certificate.public_bytes(serialization.Encoding.PEM)
        numbers[digest] += 1
    return files


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Let a folder have just these files; each is replaced whole, and one that is there as it should be stays."""
    folder.mkdir(mode=0o755, exist_ok=True)
    for name, body in files.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != body:
            draft = folder / f".{name}"
            draft.write_bytes(body)
            draft.replace(folder / name)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink(missing_ok=True)


def subject_hash(name: x509.Name) -> str:
    """Return the hash of a subject's name as `openssl x509 -subject_hash` prints it.

    It is the SHA-1 of the parts of the name in DER, each text in UTF-8, without capitals and needless spaces.
    """
    digest = hashlib.sha1(b"".join(map(_canonical, name.rdns)), usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _canonical(part: x509.RelativeDistinguishedName) -> bytes:
    pairs = (
        _der(_SEQUENCE, _identifier(attribute.oid.dotted_string) + _der(_UTF8_TEXT, _plain(attribute.value)))
        for attribute in part
    )
    return _der(_SET, b"".join(sorted(pairs)))


def _plain(value: str | bytes) -> bytes:
    body = value.encode() if isinstance(value, str) else value
    return b" ".join(body.split()).lower()  # bytes: ASCII's capitals only


def _identifier(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    return _der(_OBJECT_IDENTIFIER, b"".join(map(_base_128, [first * 40 + second, *rest])))


def _base_128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


def _der(tag: int, body: bytes) -> bytes:
    length = len(body)
    if length < 0x80:
        return bytes([tag, length]) + body
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def _certificates(bundle: bytes) -> list[x509.Certificate]:
    certificates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # of public ones that nobody here can mend
        for text in PEM.findall(bundle):
            with suppress(ValueError):
                certificates.append(x509.load_pem_x509_certificate(text))
    return certificates
