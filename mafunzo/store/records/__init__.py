"""The records of every noun in the database."""

from mafunzo.store.records.asset import ARTIFACT_HASH as ARTIFACT_HASH
from mafunzo.store.records.asset import Records as Records
