"""Computes and machine sizes in Azure's JSON. A body's unknown fields are stored and returned."""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.compute import Compute, MachineSize
from mafunzo.entities.duration import seconds_of
from mafunzo.entrypoints.azure.wire.envelope import ECHO, LOCATION, echo_of, own_resource, system_data, texts
from mafunzo.errors import InvalidParameter, NotSupported

AML_COMPUTE = "AmlCompute"
NOBODY = "00000000-0000-0000-0000-000000000000"


def compute_from_body(name: str, body: Mapping[str, Any]) -> Compute:
    """Read a PUT's body; raises `NotSupported` for other kinds than AmlCompute, `InvalidParameter` without a size."""
    properties = body.get("properties") or {}
    kind = properties.get("computeType")
    if kind != AML_COMPUTE:
        raise NotSupported(f"Compute '{name}' is of the type {kind}; only {AML_COMPUTE} clusters can be made here.")
    inner = properties.get("properties") or {}
    size = inner.get("vmSize")
    if not size:
        raise InvalidParameter(f"Compute '{name}' has no size. Name one of `mafunzo compute sizes`.", param="vmSize")
    scale = inner.get("scaleSettings") or {}
    return Compute(
        name=name,
        size=str(size),
        tier="low_priority" if str(inner.get("vmPriority", "")).lower() == "lowpriority" else "dedicated",
        min_instances=int(scale.get("minNodeCount") or 0),
        max_instances=int(scale.get("maxNodeCount") or 1),
        idle_s=int(seconds_of(str(scale.get("nodeIdleTimeBeforeScaleDown") or "PT2M"))),
        tags=texts(body.get("tags")),
        echoes={ECHO: dict(body)},
    )


def scale_from_body(body: Mapping[str, Any]) -> dict[str, int]:
    """Read a PATCH's body: what changes of a compute, by its fields."""
    scale = (((body.get("properties") or {}).get("properties")) or {}).get("scaleSettings") or {}
    names = {"minNodeCount": "min_instances", "maxNodeCount": "max_instances"}
    change = {field: int(scale[name]) for name, field in names.items() if scale.get(name) is not None}
    idle = scale.get("nodeIdleTimeBeforeScaleDown")
    return change | ({"idle_s": int(seconds_of(str(idle)))} if idle else {})


def compute_body(compute: Compute) -> dict[str, Any]:
    """Return a compute as a GET answers it."""
    echo = echo_of(compute.echoes)
    requested = echo.get("properties") or {}
    inner = dict(requested.get("properties") or {})
    if not inner.get("subnet"):  # of a compute without one, the SDK can't send this back
        inner.pop("enableNodePublicIp", None)
    inner |= {
        "vmSize": compute.size,
        "vmPriority": "LowPriority" if compute.tier == "low_priority" else "Dedicated",
        "scaleSettings": {
            "minNodeCount": compute.min_instances,
            "maxNodeCount": compute.max_instances,
            "nodeIdleTimeBeforeScaleDown": f"PT{compute.idle_s}S",
        },
        "allocationState": "Steady",
        "currentNodeCount": compute.min_instances,
        "targetNodeCount": compute.min_instances,
        "osType": inner.get("osType") or "Linux",
    }
    location = echo.get("location") or LOCATION
    system = system_data(compute.created_by, compute.created_at)
    properties = {**requested, "computeType": AML_COMPUTE, "provisioningState": "Succeeded", "properties": inner}
    properties |= {"createdOn": system["createdAt"], "computeLocation": location, "isAttachedCompute": False}
    return own_resource(
        "computes",
        compute.name,
        properties=properties,
        location=location,
        tags=dict(compute.tags),
        systemData=system,
        **_identity(echo.get("identity") or {}),
    )


def _identity(requested: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity that was requested: it stands for nobody here, under ids that say so."""
    kind = str(requested.get("type") or "None")
    if kind == "None":
        return {}
    system = {"principalId": NOBODY, "tenantId": NOBODY} if "SystemAssigned" in kind else {}
    users = {id: {"principalId": NOBODY, "clientId": NOBODY} for id in requested.get("userAssignedIdentities") or ()}
    return {"identity": {"type": kind, **system, **({"userAssignedIdentities": users} if users else {})}}


def size_body(size: MachineSize) -> dict[str, Any]:
    """Return a machine size; Azure's names of its facts."""
    return {
        "name": size.name,
        "family": size.name.split("_")[0],
        "vCPUs": size.cpus,
        "gpus": size.gpus,
        "memoryGB": size.memory_gb,
        "osVhdSizeMB": 0,
        "maxResourceVolumeMB": 0,
        "lowPriorityCapable": True,
        "premiumIO": False,
        "supportedComputeTypes": [AML_COMPUTE],
    }
