from dataclasses import replace

import pytest

from mafunzo.control.store.records import Records
from mafunzo.entities.user import Role, User
from mafunzo.errors import Conflict, NotFound
from tests.unit.control.store.records.sample import NOON


def test_a_user_is_found_by_the_hash_of_the_newest_token(records: Records) -> None:
    user = User("amina", Role.READER, token_id="abc", created_by="root", created_at=NOON, token_at=NOON)
    assert records.users.add(user, "hash 1") == user
    assert (records.users.get("amina"), records.users.find("hash 1"), records.users.list()) == (user, user, [user])
    revoked = replace(user, is_revoked=True)
    records.users.update(revoked)
    assert records.users.find("hash 1") == revoked
    records.users.update(replace(user, token_id="def"), "hash 2")
    assert records.users.find("hash 1") is None
    assert records.users.find("hash 2") == replace(user, token_id="def")


def test_faults_of_users_name_what_is_near(records: Records) -> None:
    records.users.add(User("amina", Role.OWNER, token_id="abc"), "hash")
    with pytest.raises(Conflict, match="User amina exists already"):
        records.users.add(User("amina", Role.READER, token_id="def"), "hash 2")
    for verb in (records.users.get, records.users.delete):
        with pytest.raises(NotFound, match=r"No user 'amna'\. Did you mean amina\?"):
            verb("amna")
    records.users.delete("amina")
    assert records.users.list() == []
