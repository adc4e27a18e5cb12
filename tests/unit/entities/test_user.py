"""Tests of `mafunzo.entities.user`: which role may do what another may."""

import pytest

from mafunzo.entities.user import Role


@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_do_what_those_before_it_may(role: Role) -> None:
    roles = [Role.READER, Role.CONTRIBUTOR, Role.OWNER]
    assert [role.includes(other) for other in roles] == [roles.index(role) >= index for index in range(3)]
