import pytest

from mafunzo.store.database import Database
from mafunzo.store.records import Records


@pytest.fixture
def records(database: Database) -> Records:
    return Records(database)
