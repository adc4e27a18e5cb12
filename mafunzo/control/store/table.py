"""The present schema; `migrations` has the way to here from every earlier version, and a test holds them equal.

A table has a column for what is looked up or ordered by; the rest of the entity is JSON in `body`, so that an entity may
gain a field with a default without a migration.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Dialect


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A moment: given with any offset, kept and given back as UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        assert value is None or value.tzinfo is not None, "a moment without its offset says nothing"
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = sa.MetaData()
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

migration = sa.Table(
    "migration",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("mafunzo_version", sa.Text, nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
)

owner = sa.Table(
    "owner",
    metadata,
    sa.Column("home", sa.Text, primary_key=True),
)

asset = sa.Table(
    "asset",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("artifact", sa.Text),
    sa.Column("is_archived", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.UniqueConstraint("scope", "type", "name", "version"),
    sa.Index("ix_asset_type", "scope", "type", "id"),
)

label = sa.Table(
    "label",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("is_cancel_requested", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Index("ix_job_status", "status"),
)

step = sa.Table(
    "step",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("job", sa.Text, sa.ForeignKey("job.name", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("component_name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("cache_key", sa.Text, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("body", sa.JSON, nullable=False),
    sa.UniqueConstraint("job", "name"),
    sa.Index("ix_step_cache_key", "cache_key"),
    sa.Index("ix_step_component_name", "component_name", "name"),
    sa.Index("ix_step_status", "status"),
)

endpoint = sa.Table(
    "endpoint",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("is_deleting", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("primary_key", sa.Text, nullable=False),
    sa.Column("secondary_key", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)

deployment = sa.Table(
    "deployment",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("endpoint", sa.Text, sa.ForeignKey("endpoint.name", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.UniqueConstraint("endpoint", "name"),
)

batch_endpoint = sa.Table(
    "batch_endpoint",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)

batch_deployment = sa.Table(
    "batch_deployment",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("endpoint", sa.Text, sa.ForeignKey("batch_endpoint.name", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.UniqueConstraint("endpoint", "name"),
)

compute = sa.Table(
    "compute",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)

container = sa.Table(
    "container",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("modified_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)

blob = sa.Table(
    "blob",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("container", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("artifact", sa.Text, nullable=False),
    sa.Column("modified_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.UniqueConstraint("container", "name"),
)

user = sa.Table(
    "user",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("token_hash", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)

serving = sa.Table(
    "serving",
    metadata,
    sa.Column("reference", sa.Text, primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("cpus", sa.Integer, nullable=False),
    sa.Column("gpus", sa.Integer, nullable=False),
    sa.Column("memory_mb", sa.BigInteger, nullable=False),
    sa.Column("processes", sa.Integer, nullable=False),
    sa.Column("devices", sa.JSON, nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
)
