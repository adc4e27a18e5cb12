"""Tokens and signatures: given to whoever knows the home's secret, and refused when anything about them is wrong."""

import base64
import json
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

from mafunzo.entities.user import Role
from mafunzo.entrypoints.azure.sas import LIFETIME_S as SAS_LIFETIME_S
from mafunzo.entrypoints.azure.sas import sas_of
from mafunzo.entrypoints.http.identity import LEEWAY_S, LIFETIME_S, Caller, Identity
from mafunzo.errors import Unauthorized

HERE = "https://127.0.0.1:8443"
AUDIENCES = frozenset({HERE})
NOW = 1_800_000_000.0


@pytest.fixture
def identity() -> Identity:
    return Identity(b"a secret of thirty-two bytes....", "amina")


def test_a_token_says_who_it_was_given_to(identity: Identity) -> None:
    token, ends = identity.token(HERE, identity.owner, NOW)
    assert identity.check_token(token, AUDIENCES, NOW) == Caller("amina", Role.OWNER)
    assert ends == NOW + LIFETIME_S
    juma = Caller("juma", Role.READER, "0123456789ab")
    token, ends = identity.token(HERE, juma, NOW, lifetime_s=60)
    assert (identity.check_token(token, AUDIENCES, NOW), ends) == (juma, NOW + 60)


def test_a_token_has_what_the_azure_sdk_reads(identity: Identity) -> None:
    body = identity.token(f"{HERE}/", identity.owner, NOW)[0].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    assert claims["aud"] == f"{HERE}/" and claims["tid"] and claims["exp"] == NOW + LIFETIME_S


@pytest.mark.parametrize(
    ("audience", "later_s", "told"),
    [
        pytest.param("https://management.azure.com", 0, "not for this server", id="another audience"),
        pytest.param(HERE, LIFETIME_S + LEEWAY_S + 1, "has ended", id="ended"),
    ],
)
def test_a_token_for_elsewhere_or_another_time_is_refused(identity, audience, later_s, told) -> None:
    token, _ = identity.token(audience, identity.owner, NOW)
    with pytest.raises(Unauthorized, match=told):
        identity.check_token(token, AUDIENCES, NOW + later_s)


def test_a_token_stays_good_where_the_clock_is_put_back(identity: Identity) -> None:
    """Nobody gets one for later: a running step would be refused by its own server."""
    token, _ = identity.token(HERE, identity.owner, NOW)
    assert identity.check_token(token, AUDIENCES, NOW - 3600) == identity.owner


def forged(token: str, header: dict[str, str] | None = None, **claims: object) -> str:
    """Return the token with another header or other claims and its old signature."""
    first, body, signature = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(body + "==")) | claims
    first = first if header is None else base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{first}.{base64.urlsafe_b64encode(json.dumps(changed).encode()).rstrip(b'=').decode()}.{signature}"


def test_a_token_that_was_changed_is_refused(identity: Identity) -> None:
    token, _ = identity.token(HERE, identity.owner, NOW)
    others = Identity(b"another secret of 32 bytes......", "amina").token(HERE, identity.owner, NOW)[0]
    unsigned = forged(token, {"alg": "none", "typ": "JWT"}).rsplit(".", 1)[0] + "."
    for wrong in (
        forged(token, oid="root"),
        forged(token, token_id="x"),
        forged(token, exp=2e9),
        others,
        unsigned,
        "",
        "a.b.c",
        "..",
        "ä.ö.ü",
    ):
        with pytest.raises(Unauthorized):
            identity.check_token(wrong, AUDIENCES, NOW)


def test_only_the_home_s_secret_is_its_header(identity: Identity) -> None:
    assert identity.is_header(identity.header)
    for wrong in ("", identity.header[:-1], identity.header.upper(), "ä"):
        assert not identity.is_header(wrong)


def test_a_signature_opens_one_container_for_what_it_says_until_it_ends(identity: Identity) -> None:
    sas = sas_of(identity, identity.owner)
    query = dict(parse_qsl(sas.sign("files", "rw", NOW)))
    sas.check("files", "r", query, NOW)
    refused = [
        ("other", "r", query, NOW),
        ("files", "d", query, NOW),
        ("files", "r", query, NOW + SAS_LIFETIME_S + 1),
        ("files", "d", {**query, "sp": "rwd"}, NOW),
        ("files", "r", {**query, "se": "2099-01-01T00:00:00Z"}, NOW),
        ("files", "r", {**query, "sig": ""}, NOW),
        ("files", "r", {}, NOW),
    ]
    for container, permission, given, now in refused:
        with pytest.raises(Unauthorized):
            sas.check(container, permission, given, now)


def test_each_token_signs_with_a_key_of_its_own(identity: Identity) -> None:
    juma = Caller("juma", Role.READER, "0123456789ab")
    signers = [identity.owner, juma, replace(juma, token_id="ba9876543210"), replace(juma, user="amina")]
    assert len({sas_of(identity, signer).account_key for signer in signers}) == len(signers)
    assert sas_of(identity, replace(juma, role=Role.OWNER)) == sas_of(identity, juma)
