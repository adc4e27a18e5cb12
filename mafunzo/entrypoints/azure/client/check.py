"""A connection check of a Mafunzo server before a program starts, with the reason of a failure in one sentence."""

import ssl
from pathlib import Path

from mafunzo.entrypoints.azure.client.environment import Access
from mafunzo.errors import InvalidFile, Unauthorized, Unreachable

RESOURCE = "https://management.azure.com/"
TIMEOUT_S = 20.0


def require_access(access: Access, token_file: Path) -> None:
    """Request an access token once.

    Raises `Unreachable` where no Mafunzo answers, `Unauthorized` where it takes no such token, and `InvalidFile`.
    """
    import httpx

    try:
        authorities = ssl.create_default_context(cafile=str(access.authorities))
    except ssl.SSLError as error:
        raise InvalidFile(f"{access.authorities} holds no certificate that can be read. Copy it anew.") from error
    headers = {"X-IDENTITY-HEADER": access.secret}
    try:
        with httpx.Client(verify=authorities, trust_env=False, timeout=TIMEOUT_S) as client:
            answer = client.get(f"{access.url}/msi/token", params={"resource": RESOURCE}, headers=headers)
    except httpx.HTTPError as error:
        raise Unreachable(_why(access, str(error) or type(error).__name__)) from error
    if answer.status_code == 401:
        raise Unauthorized(
            f"The token in {token_file} isn't accepted by {access.url}: it was replaced or revoked, or is another server's. "
            "Ask for a new one, which an owner makes: mafunzo user rotate NAME"
        )
    if not (answer.is_success and b"access_token" in answer.content):
        raise Unreachable(
            f"No Mafunzo answers at {access.url}: what is there says {answer.status_code} {answer.reason_phrase}."
        )


def _why(access: Access, reason: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return (
            f"The certificate of {access.url} isn't trusted by {access.authorities} ({_short(reason)}). Copy the file anew "
            "from the server's machine, where `mafunzo env --write-ca FILE` makes it, and use a name that the server has."
        )
    if "WRONG_VERSION_NUMBER" in reason or "record layer failure" in reason:
        return (
            f"No Mafunzo answers at {access.url}: there is http, not https. Name the https port, 8443 where no other one was "
            "chosen."
        )
    return f"No Mafunzo answers at {access.url}: {reason}. Is it up, and listening for others (`mafunzo up --listen`)?"


def _short(reason: str) -> str:
    return reason.rpartition("certificate verify failed: ")[2].partition(" (_ssl")[0]
