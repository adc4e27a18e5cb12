"""The tokens of clusters, by the name of the compute: encrypted under the home's secret, in files beside the database.

No row and no backup of the database has them.
"""

from pathlib import Path

from mafunzo.control.store.home import Home
from mafunzo.tracking.atomic_json import write_text

TOKENS_FOLDER = "tokens"


def keep_token(home: Home, compute: str, token: str) -> None:
    """Keep a cluster's token in the place of the one before; an empty one leaves none."""
    path = _place(home, compute)
    if not token:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_text(path, home.seal(token), mode=0o600, is_durable=True)


def token_of(home: Home, compute: str) -> str:
    """Return a cluster's token; empty where none is kept."""
    path = _place(home, compute)
    return home.unseal(path.read_text(encoding="utf-8")) if path.exists() else ""


def _place(home: Home, compute: str) -> Path:
    return home.root / TOKENS_FOLDER / compute
