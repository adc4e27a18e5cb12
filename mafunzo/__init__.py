"""Mafunzo: fine-tune a chat model, prove that it got better, register it, serve it.

The public names are loaded when they are first used, so that no step pays for the control plane, nor it for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mafunzo.control.workspace import Workspace
    from mafunzo.entities.asset import Asset, AssetKey, AssetType
    from mafunzo.entities.conversation import Conversation, Message
    from mafunzo.entities.endpoint import Deployment, Endpoint
    from mafunzo.entities.job import Job, JobStatus, Step, StepStatus
    from mafunzo.entities.scale import Scale
    from mafunzo.errors import MafunzoError

__version__ = "0.1.0"
_HOMES = {
    "Workspace": "mafunzo.control.workspace",
    "MafunzoError": "mafunzo.errors",
    "Asset": "mafunzo.entities.asset",
    "AssetKey": "mafunzo.entities.asset",
    "AssetType": "mafunzo.entities.asset",
    "Conversation": "mafunzo.entities.conversation",
    "Message": "mafunzo.entities.conversation",
    "Deployment": "mafunzo.entities.endpoint",
    "Endpoint": "mafunzo.entities.endpoint",
    "Scale": "mafunzo.entities.scale",
    "Job": "mafunzo.entities.job",
    "JobStatus": "mafunzo.entities.job",
    "Step": "mafunzo.entities.job",
    "StepStatus": "mafunzo.entities.job",
}
__all__ = [
    "Asset",
    "AssetKey",
    "AssetType",
    "Conversation",
    "Deployment",
    "Endpoint",
    "Job",
    "JobStatus",
    "MafunzoError",
    "Message",
    "Scale",
    "Step",
    "StepStatus",
    "Workspace",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        if name == "Workspace":
            import_module("mafunzo.entrypoints.plugins").plug_in()
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mafunzo' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
