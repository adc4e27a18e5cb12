"""Compressed files as the bytes inside of them, streamed: gzip, bzip2, xz and zstandard.

What a file is compressed with is told by its first bytes, so that its name may have lost its suffix, or kept one too many.
"""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any

from mafunzo.errors import InvalidFile

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""The suffixes that name a compression, after the one that names the kind of file: `train.jsonl.gz`."""
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


def plain_name(path: Path) -> Path:
    """Return the file's path without the suffix of a compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def compression_of(path: Path) -> str:
    """Return what a file is compressed with by its first bytes, or an empty text."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed; reading raises `InvalidFile` where the compressed data is damaged or cut off."""
    compression = compression_of(path)
    return io.BufferedReader(_Decompressed(path, compression), 1 << 16) if compression else path.open("rb")


class _Decompressed(io.RawIOBase):
    """A decompressor as a raw stream, whose errors of many kinds become one that names the file."""

    def __init__(self, path: Path, compression: str) -> None:
        self._path = path
        self._compression = compression
        self._stream = _open(path, compression)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise InvalidFile(
                f"{self._path.name} can't be decompressed ({self._compression}): {error}. It is damaged or was cut off; "
                "write or download it again."
            ) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _open(path: Path, compression: str) -> Any:
    if compression == "gzip":
        return gzip.open(path)
    if compression == "bzip2":
        return bz2.open(path)
    if compression == "xz":
        return lzma.open(path)
    import pyarrow as pa

    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
