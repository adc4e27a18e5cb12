"""The requests of MLflow's that are answered here, each with the role that it needs. What isn't on this list is refused.

An operation is an HTTP method and a path below MLflow's root, as it is after percent-decoding: the address that goes on to
MLflow is made of the path that was judged (`address_of`), so that the two can't differ. Left out are what runs programs or asks
other servers for MLflow (its assistant, jobs, gateway, webhooks, scorers that call a model, presigned addresses), and
`upload-artifact`, which asks nobody whether the run takes files.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote

from mafunzo.entities.user import Role

_API = r"(?:ajax-)?api/[23]\.0/?mlflow/"  # the pages leave a slash out
_FILES = r"(?:ajax-)?api/2\.0/mlflow-artifacts/"
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
"""MLflow decodes the path of a file until it has none of these left: it would be another than the one that was judged."""

READ = (
    "GET .",
    "GET .health",
    "GET .version",
    "GET .graphql",
    "POST .graphql",
    "GET .get-artifact",
    "GET .model-versions/get-artifact",
    "GET .build/**",
    "GET .static-files/**",
    "GET @artifacts",
    "GET @artifacts/**",
    "GET artifacts/list",
    "GET datasets/*",
    "GET datasets/*/experiment-ids",
    "GET datasets/*/records",
    "GET datasets/search",
    "POST datasets/search",
    "GET experiments/get",
    "GET experiments/get-by-name",
    "GET experiments/search",
    "POST experiments/search",
    "POST experiments/search-datasets",
    "GET get-trace-artifact",
    "GET issues/*",
    "POST issues/search",
    "GET label-schemas/get",
    "GET label-schemas/get-by-name",
    "GET label-schemas/list",
    "GET logged-models/*",
    "GET logged-models/*/artifacts/directories",
    "GET logged-models/*/artifacts/files",
    "POST logged-models/search",
    "GET metrics/get-history",
    "GET metrics/get-history-bulk",
    "GET metrics/get-history-bulk-interval",
    "GET model-versions/get",
    "GET model-versions/get-download-uri",
    "GET model-versions/search",
    "GET registered-models/alias",
    "GET registered-models/get",
    "GET registered-models/get-latest-versions",
    "POST registered-models/get-latest-versions",
    "GET registered-models/search",
    "GET review-queues/get",
    "GET review-queues/get-by-name",
    "GET review-queues/items/list",
    "GET review-queues/list",
    "GET runs/get",
    "POST runs/search",
    "GET scorers/get",
    "GET scorers/list",
    "GET scorers/versions",
    "GET server-info",
    "GET traces",
    "GET traces/*",
    "GET traces/*/assessments/*",
    "GET traces/*/info",
    "GET traces/batchGet",
    "POST traces/batchGetInfos",
    "POST traces/calculate-filter-correlation",
    "GET traces/get",
    "POST traces/metrics",
    "POST traces/search",
    "GET ui-telemetry",
    "GET unified-traces",
    "GET workspaces",
    "GET workspaces/*",
)
"""What a reader may ask. `.` stands for MLflow's root, `@` for where the files of runs are; other paths are below its API.
`*` is one part of a path, `**` one or more."""

CHANGE = (
    "POST .v1/traces",
    "PUT @artifacts/**",
    "POST @mpu/abort/**",
    "POST @mpu/complete/**",
    "POST @mpu/create/**",
    "POST datasets/*/add-experiments",
    "POST datasets/*/records",
    "POST datasets/*/remove-experiments",
    "PATCH datasets/*/tags",
    "POST datasets/create",
    "POST experiments/create",
    "POST experiments/delete-experiment-tag",
    "POST experiments/restore",
    "POST experiments/set-experiment-tag",
    "POST experiments/update",
    "POST issues",
    "PATCH issues/*",
    "POST label-schemas/create",
    "PATCH label-schemas/update",
    "POST logged-models",
    "PATCH logged-models/*",
    "POST logged-models/*/params",
    "PATCH logged-models/*/tags",
    "POST model-versions/create",
    "DELETE model-versions/delete-tag",
    "POST model-versions/set-tag",
    "POST model-versions/transition-stage",
    "PATCH model-versions/update",
    "DELETE registered-models/alias",
    "POST registered-models/alias",
    "POST registered-models/create",
    "DELETE registered-models/delete-tag",
    "POST registered-models/rename",
    "POST registered-models/set-tag",
    "PATCH registered-models/update",
    "POST review-queues/create",
    "POST review-queues/get-or-create-user",
    "POST review-queues/items/add",
    "POST review-queues/items/remove",
    "POST review-queues/items/set-status",
    "POST review-queues/update",
    "POST runs/create",
    "POST runs/delete-tag",
    "POST runs/log-batch",
    "POST runs/log-inputs",
    "POST runs/log-metric",
    "POST runs/log-model",
    "POST runs/log-parameter",
    "POST runs/outputs",
    "POST runs/restore",
    "POST runs/set-tag",
    "POST runs/update",
    "POST scorers/register",
    "POST traces",
    "PATCH traces/*",
    "POST traces/*/assessments",
    "PATCH traces/*/assessments/*",
    "PATCH traces/*/tags",
    "POST traces/link-prompts",
    "POST traces/link-to-run",
)
"""What a contributor may ask: nothing is lost by it but a mark."""

DELETE = (
    "DELETE @artifacts/**",
    "DELETE datasets/*",
    "DELETE datasets/*/records",
    "DELETE datasets/*/tags/*",
    "POST experiments/delete",
    "DELETE label-schemas/delete",
    "DELETE logged-models/*",
    "DELETE logged-models/*/tags/*",
    "DELETE model-versions/delete",
    "DELETE registered-models/delete",
    "POST review-queues/delete",
    "POST runs/delete",
    "DELETE scorers/delete",
    "DELETE traces/*/assessments/*",
    "DELETE traces/*/tags",
    "POST traces/delete-traces",
)
"""What needs an owner."""


def role_of(method: str, path: str) -> Role | None:
    """Return the role that a request needs, None where it isn't answered here."""
    if not is_plain(path):
        return None
    operation = f"{'GET' if method == 'HEAD' else method} {path}"
    return next((role for role, pattern in _PATTERNS if pattern.fullmatch(operation)), None)


def is_plain(path: str) -> bool:
    """Return whether a path means the same to everybody: no part of it leads elsewhere, none is to be decoded again.

    It may end with a slash, as `mlflow gc` writes a folder of files.
    """
    parts = path.removesuffix("/").split("/") if path else []
    return not {"", ".", ".."} & set(parts) and "\\" not in path and not _ESCAPE.search(path)


def address_of(path: str) -> str:
    """Return the percent-encoded address of a path: MLflow decodes it to this very path."""
    return quote(path, safe="/")


def _pattern(operations: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(_expression, operations)))


def _expression(operation: str) -> str:
    method, _, template = operation.partition(" ")
    roots = {".": ("", template[1:]), "@": (_FILES, template[1:])}
    root, rest = roots.get(template[0], (_API, template))
    parts = {"**": ".+", "*": "[^/]+"}
    return f"{method} {root}" + "/".join(parts.get(part, re.escape(part)) for part in rest.split("/"))


_PATTERNS = (
    (Role.READER, _pattern(READ)),
    (Role.CONTRIBUTOR, _pattern(CHANGE)),
    (Role.OWNER, _pattern(DELETE)),
)
