"""What has given answers, by the reference that the answers' ids carry; a row stays when its deployment has gone."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store import table
from mafunzo.control.store.records.row import NounRecords, first_row, to_row
from mafunzo.entities.endpoint import Deployment
from mafunzo.entities.serving import Serving


class ServingRecords(NounRecords):
    """Every version of a model that a deployment of one home has served."""

    def find(self, reference: str) -> Serving | None:
        """Return what a reference names, or None."""
        query = sa.select(table.serving).where(table.serving.c.reference == reference)
        return next(iter(self._read(Serving, query)), None)


def remember(connection: Connection, deployment: Deployment) -> None:
    """Keep what the workers of a deployment serve, before any of them answers."""
    for serving in dict.fromkeys(serving for worker in deployment.workers for serving in worker.servings):
        if first_row(connection, table.serving, table.serving.c.reference == serving.reference) is None:
            row = to_row(table.serving, serving) | {"reference": serving.reference}
            connection.execute(sa.insert(table.serving).values(row))
