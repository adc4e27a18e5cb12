"""How Azure ML writes the name of an asset: `name`, `name:version`, `azureml:name@label`, `azureml://registries/...`, `azureml://jobs/...`."""

import re
from dataclasses import dataclass

_REGISTRY = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/(?P<kind>\w+)/(?P<name>[^/]+)(/(versions/(?P<version>[^/]+)|labels/(?P<label>[^/]+)))?$"
)
_JOB_OUTPUT = re.compile(r"azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(/paths/?)?$")
_SHORT = re.compile(r"(azureml:)?(?P<name>[^:@/]+)(:(?P<version>[^:@/]+)|@(?P<label>[^:@/]+))?$")


@dataclass(frozen=True)
class AssetReference:
    """A name as a user wrote it. `registry` None means the workspace first, then the catalogue; no version means the newest."""

    name: str
    version: str | None = None
    label: str | None = None
    registry: str | None = None


@dataclass(frozen=True)
class JobOutputReference:
    """`azureml://jobs/<job>/outputs/<output>`."""

    job: str
    output: str


def parse_reference(text: str) -> AssetReference | JobOutputReference | None:
    """Return what `text` names, or None when it has none of Azure ML's forms."""
    if match := _JOB_OUTPUT.match(text):
        return JobOutputReference(match["job"], match["output"])
    match = _REGISTRY.match(text) or _SHORT.match(text)
    if match is None:
        return None
    parts = match.groupdict()
    label = parts["label"] if parts["label"] != "latest" else None
    return AssetReference(parts["name"], parts["version"], label, parts.get("registry"))
