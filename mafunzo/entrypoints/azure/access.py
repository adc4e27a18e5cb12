"""Role-based access control of Azure's wire: the role that each route needs, and the requests in the audit log."""

from collections.abc import Callable, Mapping

from starlette.types import Scope

from mafunzo.control.workspace import Workspace
from mafunzo.entities.user import Role
from mafunzo.entrypoints.http.access import READING, Ids, Need, Rules
from mafunzo.entrypoints.http.audit import REFUSED, route_name

ASSETS = (
    *("models", "data", "components", "environments", "codes"),
    *("registry_models", "registry_data", "registry_components", "registry_environments"),
)
_OF_ASSETS: Mapping[str, Role] = {
    "list_{}": Role.READER,
    "get_{}_container": Role.READER,
    "put_{}_container": Role.CONTRIBUTOR,
    "list_{}_versions": Role.READER,
    "get_{}_version": Role.READER,
    "put_{}_version": Role.CONTRIBUTOR,
}

NEEDS: Mapping[str, Role | Need] = {
    "cloud_metadata": Need.NOTHING,
    "discover_registry": Need.NOTHING,
    "discover_services": Need.NOTHING,
    "tell_where_to_look": Need.NOTHING,
    "managed_identity": Need.PROOF,
    "get_log": Need.PROOF,
    "list_containers": Need.PROOF,
    "create_container": Need.PROOF,
    "get_container": Need.PROOF,
    "delete_container": Need.PROOF,
    "read_blob": Need.PROOF,
    "write_blob": Need.PROOF,
    "delete_blob": Need.PROOF,
    "score": Need.PROOF,
    "get_workspace": Role.READER,
    "list_workspaces": Role.READER,
    "list_computes": Role.READER,
    "get_compute": Role.READER,
    "put_compute": Role.CONTRIBUTOR,
    "patch_compute": Role.CONTRIBUTOR,
    "delete_compute": Need.MAKER,
    "list_sizes": Role.READER,
    "list_nodes": Role.READER,
    "list_usages": Role.READER,
    "list_registries": Role.READER,
    "get_registry": Role.READER,
    "fetch_registry_model": Role.CONTRIBUTOR,
    "share_asset": Role.CONTRIBUTOR,
    **{route.format(noun): role for route, role in _OF_ASSETS.items() for noun in ASSETS},
    "start_upload": Role.CONTRIBUTOR,
    "list_jobs": Role.READER,
    "get_job": Role.READER,
    "put_job": Role.CONTRIBUTOR,
    "cancel_job": Need.MAKER,
    "delete_job": Need.MAKER,
    "get_run": Role.READER,
    "patch_run": Role.CONTRIBUTOR,
    "list_children": Role.READER,
    "list_services": Role.READER,
    "get_run_details": Role.READER,
    "get_run_data": Role.READER,
    "resolve_outputs": Role.READER,
    "list_datastores": Role.READER,
    "get_datastore": Role.READER,
    "list_secrets": Role.READER,
    "list_endpoints": Role.READER,
    "get_endpoint": Role.READER,
    "put_endpoint": Role.CONTRIBUTOR,
    "delete_endpoint": Need.MAKER,
    "list_keys": Role.CONTRIBUTOR,
    "regenerate_keys": Role.OWNER,
    "list_deployments": Role.READER,
    "get_deployment": Role.READER,
    "put_deployment": Role.CONTRIBUTOR,
    "delete_deployment": Need.MAKER,
    "get_deployment_logs": Role.READER,
    "list_batch_endpoints": Role.READER,
    "get_batch_endpoint": Role.READER,
    "put_batch_endpoint": Role.CONTRIBUTOR,
    "delete_batch_endpoint": Need.MAKER,
    "list_batch_deployments": Role.READER,
    "get_batch_deployment": Role.READER,
    "put_batch_deployment": Role.CONTRIBUTOR,
    "delete_batch_deployment": Need.MAKER,
    "invoke_batch_endpoint": Role.CONTRIBUTOR,
    "list_batch_jobs": Role.READER,
    "list_batch_deployment_jobs": Role.READER,
    "get_operation": Role.READER,
    "mlflow": Role.READER,
    "unknown": Role.READER,
}
"""By the name of the route's function. What isn't here needs an owner, and a test says that it is missing. MLflow asks for
more itself where something changes."""

MAKERS: Mapping[str, Callable[[Workspace, Ids], str]] = {
    "delete_compute": lambda workspace, ids: workspace.computes.find(ids["name"]).created_by,
    "cancel_job": lambda workspace, ids: workspace.jobs.get(ids["name"]).job.created_by,
    "delete_job": lambda workspace, ids: workspace.jobs.get(ids["name"]).job.created_by,
    "delete_endpoint": lambda workspace, ids: workspace.endpoints.get(ids["name"]).endpoint.created_by,
    "delete_batch_endpoint": lambda workspace, ids: workspace.batch_endpoints.get(ids["name"]).created_by,
    "delete_batch_deployment": lambda workspace, ids: (
        workspace.batch_endpoints.deployment(ids["endpoint"], ids["name"]).created_by
    ),
    "delete_deployment": lambda workspace, ids: workspace.deployments.get(ids["endpoint"], ids["name"]).created_by,
}
"""The creator of a route's resource, for each route that needs its maker."""

SIGNED_FOR: Mapping[Role, str] = {Role.READER: "rl", Role.CONTRIBUTOR: "rcwl", Role.OWNER: "rcwdl"}
"""The permissions of each role's shared access signatures, in Azure's letters: read, create, write, delete, list."""

SECRETS = frozenset({"managed_identity", "list_keys", "list_secrets"})
"""Routes whose answer is a secret."""

RULES = Rules(NEEDS, MAKERS)


def is_audited(scope: Scope, status: int) -> bool:
    """Return whether a request of the https port is written into the audit log."""
    name = route_name(scope)
    if status in REFUSED or name in SECRETS:
        return True
    if name == "mlflow":
        mlflow = scope["app"].state.context.mlflow
        return mlflow is not None and mlflow.role_of(scope["method"], scope["path_params"]["path"]) is not Role.READER
    return scope["method"] not in READING and NEEDS.get(name) is not Role.READER
