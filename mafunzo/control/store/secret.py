"""Encryption at rest: endpoint keys in the database, which the SDK must be able to list."""

import base64

from cryptography.fernet import Fernet, InvalidToken

from mafunzo.control.store.home import SECRET_FILE, Home
from mafunzo.errors import RefusedError


def seal(home: Home, text: str) -> str:
    """Return `text` encrypted and authenticated under the home's secret."""
    return _fernet(home).encrypt(text.encode()).decode()


def unseal(home: Home, sealed: str) -> str:
    """Return the text that `seal` was given. Raises `RefusedError` when it was sealed under another secret."""
    try:
        return _fernet(home).decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise RefusedError(
            f"The keys in the database of {home.root} were encrypted under another secret than its {SECRET_FILE}. "
            "Put that file back from a backup, or give the endpoints new keys."
        ) from error


def _fernet(home: Home) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(home.secret()))
