"""What gives an answer: a deployment of an endpoint, with the model that it serves then; it outlives both."""

import base64
import hashlib
import json
from dataclasses import asdict, dataclass

REFERENCE_LENGTH = 10


@dataclass(frozen=True)
class Serving:
    """A deployment while it serves one version of a model.

    model: `name:version`; artifact: the hash of its folder; base_artifact: of the base under an adapter. deployed_at: when the
    deployment was made, in ISO 8601, as one that is deleted and made again is another.
    """

    endpoint: str
    deployment: str
    model: str
    artifact: str
    base_artifact: str | None = None
    deployed_at: str = ""

    @property
    def reference(self) -> str:
        """A short name that follows from all of it: 50 bits of its hash, in letters and digits."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()
        return base64.b32encode(digest).decode().lower()[:REFERENCE_LENGTH]
