"""Endpoints, deployments and computes from the bodies of Azure ML that rows held up to migration 4 to neutral rows.

Part of migration 5, and frozen with it: plain JSON in, plain JSON out, without the entities and dialects of the day.

| row | before | after |
|---|---|---|
| endpoint | `properties.azureml_body` | `echoes.azure` |
| deployment | `properties.azureml_body` | `echoes.azure` |
| deployment | `properties.base_artifact`, `properties.supervision` | `base_artifact`, `supervision` |
| compute | `properties.body` | `echoes.azure` |

Nothing else stood in `properties`, which goes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

Body = Mapping[str, Any]


def apply(connection: Connection) -> None:
    """Rewrite every row."""
    for name, translate in _TRANSLATIONS.items():
        rows = sa.table(name, sa.column("id", sa.BigInteger), sa.column("body", sa.JSON))
        for row in connection.execute(sa.select(rows)).all():
            connection.execute(sa.update(rows).where(rows.c.id == row.id).values(body=translate(row.body)))


def neutral_endpoint(body: Body) -> dict[str, Any]:
    """Return the new body of an endpoint's row."""
    return _with_echo(body, "azureml_body")


def neutral_deployment(body: Body) -> dict[str, Any]:
    """Return the new body of a deployment's row."""
    properties = body.get("properties") or {}
    typed = {name: properties[name] for name in ("base_artifact", "supervision") if properties.get(name)}
    return _with_echo(body, "azureml_body") | typed


def neutral_compute(body: Body) -> dict[str, Any]:
    """Return the new body of a compute's row."""
    return _with_echo(body, "body")


def _with_echo(body: Body, key: str) -> dict[str, Any]:
    """Return a body whose properties are gone, but for what stood under `key`, which becomes Azure's echo."""
    echo = (body.get("properties") or {}).get(key)
    neutral = {name: value for name, value in body.items() if name != "properties"}
    return neutral | {"echoes": {**(body.get("echoes") or {}), **({"azure": echo} if echo else {})}}


_TRANSLATIONS: Mapping[str, Callable[[Body], dict[str, Any]]] = {
    "endpoint": neutral_endpoint,
    "deployment": neutral_deployment,
    "compute": neutral_compute,
}
