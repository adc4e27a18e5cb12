"""Tests of `mafunzo.entrypoints.azure.sas`: signed addresses, ours and a client's own, and all that is refused of them."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest

from mafunzo.entities.user import Role
from mafunzo.entrypoints.azure.sas import ACCOUNT, LIFETIME_S, NOT_ENFORCED, Sas, sas_of, string_to_sign
from mafunzo.entrypoints.azure.wire.blob import BlobRefused
from mafunzo.entrypoints.http.identity import Caller, Identity
from mafunzo.errors import Unauthorized

NOW = 1_800_000_000.0
LATER = datetime.fromtimestamp(NOW + 600, UTC)
SAS = Sas(b"a key of an account, thirty-two.")
IDENTITY = Identity(b"a secret of thirty-two bytes....", "amina")


def query(address: str) -> dict[str, str]:
    return dict(parse_qsl(address))


def signed(permissions: str = "rl", **fields: str) -> dict[str, str]:
    """Return a query that is signed as it is, whatever its fields say."""
    made = {"sv": "2023-11-03", "sr": "c", "sp": permissions, "se": LATER.strftime("%Y-%m-%dT%H:%M:%SZ"), **fields}
    return made | {"sig": SAS.signature(string_to_sign(made, f"{ACCOUNT}/box"))}


def test_an_address_opens_its_container_for_an_hour() -> None:
    made = query(SAS.sign("box", "rl", NOW))
    assert SAS.permissions(made, "box", now=NOW + LIFETIME_S - 1) == "rl"
    with pytest.raises(Unauthorized, match="Ask for another one"):
        SAS.permissions(made, "box", now=NOW + LIFETIME_S)
    with pytest.raises(Unauthorized, match="The address has no right signature for 'other'"):
        SAS.permissions(made, "other", now=NOW)


def test_an_address_opens_for_what_it_names_only() -> None:
    made = query(SAS.sign("box", "rl", NOW))
    SAS.check("box", "r", made, NOW)
    with pytest.raises(Unauthorized, match="The signature allows 'rl', not 'w'"):
        SAS.check("box", "w", made, NOW)


@pytest.mark.parametrize("field", ["sp", "se", "sv", "sig"])
def test_a_field_that_was_changed_breaks_the_signature(field: str) -> None:
    made = query(SAS.sign("box", "r", NOW))
    changed = {"sp": "rw", "se": "2999-01-01T00:00:00Z", "sv": "2024-01-01", "sig": "x"}[field]
    with pytest.raises(Unauthorized, match="no right signature"):
        SAS.permissions(made | {field: changed}, "box", now=NOW)


def test_a_container_is_signed_as_azures_own_client_does() -> None:
    from azure.storage.blob import generate_container_sas

    made = query(generate_container_sas(ACCOUNT, "box", SAS.account_key, permission="rwl", expiry=LATER))
    assert set(SAS.permissions(made, "box", "any/blob", now=NOW)) == set("rwl")


def test_a_blob_is_signed_as_azures_own_client_does_and_opens_nothing_else() -> None:
    from azure.storage.blob import BlobSasPermissions, generate_blob_sas

    permission = BlobSasPermissions(read=True)
    made = query(
        generate_blob_sas(ACCOUNT, "box", "a/b", account_key=SAS.account_key, permission=permission, expiry=LATER)
    )
    assert SAS.permissions(made, "box", "a/b", now=NOW) == "r"
    with pytest.raises(Unauthorized, match="no right signature for 'box/a/c'"):
        SAS.permissions(made, "box", "a/c", now=NOW)
    with pytest.raises(BlobRefused, match="The signature is for a blob only") as refusal:
        SAS.permissions(made, "box", now=NOW)
    assert refusal.value.reason == "AuthorizationResourceTypeMismatch"


def test_any_name_of_the_account_may_be_signed() -> None:
    from azure.storage.blob import generate_container_sas

    made = query(generate_container_sas("host/mafunzo", "box", SAS.account_key, permission="r", expiry=LATER))
    assert SAS.permissions(made, "box", accounts=(ACCOUNT, "host/mafunzo"), now=NOW) == "r"
    with pytest.raises(Unauthorized):
        SAS.permissions(made, "box", now=NOW)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        pytest.param({"sr": "bs"}, "isn't signed for a container", id="a snapshot"),
        pytest.param({"spr": "http"}, "over https", id="http"),
        pytest.param(
            {"sv": "2019-12-12"}, "version is '2019-12-12', expected 2020-12-06 or later", id="an old version"
        ),
        pytest.param({"sv": "new"}, "version is 'new'", id="no version"),
        pytest.param({"se": "soon"}, "holds until 'soon', which is no moment", id="no end"),
        pytest.param({"se": ""}, "holds until '', which is no moment", id="an empty end"),
        pytest.param({"st": "2999-01-01"}, "holds from 2999-01-01 to", id="not yet"),
        pytest.param({"se": "2001-01-01"}, "The signature holds from ever to 2001-01-01", id="no longer"),
    ],
)
def test_a_signature_of_another_kind_is_refused_though_it_is_right(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(Unauthorized, match=text):
        SAS.permissions(signed(**fields), "box", now=NOW)


@pytest.mark.parametrize("field", sorted(NOT_ENFORCED))
def test_a_field_that_cannot_be_enforced_is_refused(field: str) -> None:
    with pytest.raises(Unauthorized, match=f"The address has the field {field}, which can't be enforced here"):
        SAS.permissions(signed() | {field: "1"}, "box", now=NOW)


def test_a_moment_without_an_offset_is_in_utc() -> None:
    assert SAS.permissions(signed(se=LATER.strftime("%Y-%m-%dT%H:%M:%S")), "box", now=NOW + 599) == "rl"


def test_each_user_has_a_key_that_ends_with_their_token() -> None:
    keys = {
        sas_of(IDENTITY, IDENTITY.owner).key,
        sas_of(IDENTITY, Caller("juma", Role.READER, "first")).key,
        sas_of(IDENTITY, Caller("juma", Role.READER, "second")).key,
        sas_of(IDENTITY, Caller("zawadi", Role.READER, "first")).key,
    }
    assert len(keys) == 4
    assert sas_of(IDENTITY, Caller("juma", Role.OWNER, "first")) == sas_of(
        IDENTITY, Caller("juma", Role.READER, "first")
    )
