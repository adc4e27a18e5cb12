"""Names as Azure ML writes them: `name:version`, `azureml://registries/...`, `azureml://jobs/...`, ARM ids, stored paths."""

import re
from dataclasses import dataclass

_VERSION = r"(/(versions/(?P<version>[^/]+)|labels/(?P<label>[^/]+)))?/?"
_REGISTRY = re.compile(rf"(azureml:)?azureml://registries/(?P<registry>[^/]+)/(?P<kind>\w+)/(?P<name>[^/]+){_VERSION}")
_ARM = re.compile(
    rf"(azureml:|azureml:/)?/subscriptions/[^/]+/resource[gG]roups/[^/]+/(providers/[^/]+/)?workspaces/[^/]+"
    rf"/(?P<kind>\w+)/(?P<name>[^/]+){_VERSION}"
)
_PLACED = re.compile(rf"(azureml:)?azureml://locations/[^/]+/workspaces/[^/]+/(?P<kind>\w+)/(?P<name>[^/]+){_VERSION}")
_JOB_OUTPUT = re.compile(
    r"(azureml:)?azureml://(?:[^:]+/)?jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(/paths(/(?P<path>.*?))?/?)?/?"
)
_DATASTORE = re.compile(
    r"(azureml:)?azureml://(?:subscriptions/.+/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+?)/?"
)
_WEB = re.compile(r"https?://[^/?#\s]+/\S*[^/\s]")
_SHORT = re.compile(r"(azureml:)?(?P<name>[^:@/]+)(:(?P<version>[^:@/]+)|@(?P<label>[^:@/]+))?")


@dataclass(frozen=True)
class AssetReference:
    """A name as a user wrote it. `registry` None means the workspace first, then the catalogue; no version means the newest.

    kind: `models`, `data`, `components` ... where the name says it.
    """

    name: str
    version: str | None = None
    label: str | None = None
    registry: str | None = None
    kind: str | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" if self.version else f"{self.name}@{self.label or 'latest'}"


@dataclass(frozen=True)
class JobOutputReference:
    """`azureml://jobs/<job>/outputs/<output>`, or a file or folder of it below `/paths/`."""

    job: str
    output: str
    path: str = ""


@dataclass(frozen=True)
class StoredPath:
    """A path of a datastore: `azureml://datastores/workspaceblobstore/paths/a/train.jsonl`."""

    datastore: str
    path: str


@dataclass(frozen=True)
class WebAddress:
    """A file elsewhere: `https://host/folder/iris.csv`."""

    url: str


@dataclass(frozen=True)
class PathInput:
    """A file or folder that an input names by its address; `type` is what it says that it is: `uri_file` ..."""

    uri: str
    type: str


Reference = AssetReference | JobOutputReference | StoredPath | WebAddress


def parse_reference(text: str) -> Reference | None:
    """Return what `text` names, or None when it has none of Azure ML's forms."""
    if match := _JOB_OUTPUT.fullmatch(text):
        return JobOutputReference(match["job"], match["output"], match["path"] or "")
    if match := _DATASTORE.fullmatch(text):
        return StoredPath(match["datastore"], match["path"])
    if _WEB.fullmatch(text):
        return WebAddress(text)
    match = next((m for form in (_REGISTRY, _ARM, _PLACED, _SHORT) if (m := form.fullmatch(text))), None)
    if match is None:
        return None
    parts = match.groupdict()
    label = parts["label"] if parts["label"] != "latest" else None
    name = parts["name"].removeprefix("azureml:")  # the SDK leaves it in ids that it makes of `azureml:NAME@latest`
    return AssetReference(name, parts["version"], label, parts.get("registry"), parts.get("kind"))


def stored_path(uri: str) -> StoredPath | None:
    """Return the path of a datastore that an address names, or None for another address."""
    found = parse_reference(uri)
    return found if isinstance(found, StoredPath) else None
