from collections.abc import Callable
from subprocess import Popen

import pytest

from mafunzo.control.store.database import Database
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.entities.job import Resources

MACHINE = Resources(cpus=4, gpus=2, memory_mb=8000)
TAKE_AND_RELEASE = """
import random, sys
from pathlib import Path
from mafunzo.entities.job import Resources
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
owner, draw, machine = sys.argv[3], random.Random(sys.argv[3]), Resources(cpus=4, gpus=2, memory_mb=8000)
leases = Leases(open_database(Home(Path(sys.argv[1])), sys.argv[2] or None))
taken = 0
while taken < 10:
    if leases.take(owner, Resources(draw.randint(1, 3), draw.randint(0, 2), draw.randint(0, 5000)), machine):
        taken += 1
        held = [lease.resources for lease in leases.list()]
        devices = leases.devices(owner)
        assert sum(r.cpus for r in held) <= 4 and sum(r.gpus for r in held) <= 2, held
        assert sum(r.memory_mb for r in held) <= 8000, held
        leases.release(owner)
print(taken)
"""


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


@pytest.mark.parametrize(
    ("held", "wanted", "is_taken"),
    [
        pytest.param(Resources(2), Resources(2), True, id="just enough cores"),
        pytest.param(Resources(2), Resources(3), False, id="a core too few"),
        pytest.param(Resources(1, 1), Resources(1, 1), True, id="just enough GPUs"),
        pytest.param(Resources(1, 1), Resources(1, 2), False, id="a GPU too few"),
        pytest.param(Resources(1, 0, 5000), Resources(1, 0, 3000), True, id="just enough memory"),
        pytest.param(Resources(1, 0, 5000), Resources(1, 0, 3001), False, id="too little memory"),
        pytest.param(Resources(0), Resources(5), False, id="more than the machine has"),
    ],
)
def test_a_lease_is_taken_only_when_there_is_enough_left(
    leases: Leases, held: Resources, wanted: Resources, is_taken: bool
) -> None:
    assert leases.take("first", held, MACHINE)
    assert leases.take("second", wanted, MACHINE) is is_taken
    expected = [("first", held), ("second", wanted)][: 1 + is_taken]
    assert [(lease.owner, lease.resources) for lease in leases.list()] == expected


def test_what_is_released_can_be_taken_again(leases: Leases) -> None:
    assert leases.take("first", Resources(4), MACHINE)
    assert not leases.take("second", Resources(1), MACHINE)
    leases.release("first")
    leases.release("first")
    assert leases.take("second", Resources(4), MACHINE)


def test_an_owner_that_takes_again_replaces_its_lease_or_keeps_it(leases: Leases) -> None:
    assert leases.take("owner", Resources(3), MACHINE)
    assert leases.take("owner", Resources(4), MACHINE)
    assert not leases.take("owner", Resources(5), MACHINE)
    assert [lease.resources.cpus for lease in leases.list()] == [4]


def test_owners_hold_different_gpus(leases: Leases) -> None:
    machine = Resources(cpus=8, memory_mb=8000, gpus=3)
    for owner, gpus in (("one", 1), ("two", 2)):
        assert leases.take(owner, Resources(1, gpus), machine)
    assert (leases.devices("one"), leases.devices("two"), leases.devices("three")) == ((0,), (1, 2), ())
    leases.release("one")
    assert leases.take("three", Resources(1, 1), machine)
    assert leases.devices("three") == (0,)


@pytest.mark.parametrize("url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_processes_that_take_at_once_never_hold_more_than_the_machine_has(
    leases: Leases, home: Home, url: str | None, start_python: Callable[..., Popen[str]]
) -> None:
    processes = [start_python(TAKE_AND_RELEASE, home.root, url or "", f"owner-{n}") for n in range(4)]
    ends = [(process.communicate(), process.returncode) for process in processes]
    assert all(code == 0 and int(out) == 10 for (out, _), code in ends), ends
    assert leases.list() == []
