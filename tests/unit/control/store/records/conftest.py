import pytest

from mafunzo.control.store.database import Database
from mafunzo.control.store.records import Records


@pytest.fixture
def records(database: Database) -> Records:
    return Records(database)
