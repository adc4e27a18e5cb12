"""Names as Azure ML writes them: `azureml:name:version`, `azureml://registries/...`, ARM ids, outputs of jobs, stored paths."""

import re
from collections.abc import Mapping

from mafunzo.entities.asset import AssetType
from mafunzo.entities.reference import AssetReference, JobOutputReference, Reference, StoredPath, parse_name

NOUNS: Mapping[AssetType, str] = {
    AssetType.MODEL: "models",
    AssetType.DATA: "data",
    AssetType.COMPONENT: "components",
    AssetType.ENVIRONMENT: "environments",
    AssetType.CODE: "codes",
}
"""The nouns of asset types in ids."""
_TYPES = {noun: type for type, noun in NOUNS.items()}
_VERSION = r"(/(versions/(?P<version>[^/]+)|labels/(?P<label>[^/]+)))?/?"
_REGISTRY = re.compile(rf"(azureml:)?azureml://registries/(?P<registry>[^/]+)/(?P<noun>\w+)/(?P<name>[^/]+){_VERSION}")
_ARM = re.compile(
    rf"(azureml:|azureml:/)?/subscriptions/[^/]+/resource[gG]roups/[^/]+/(providers/[^/]+/)?workspaces/[^/]+"
    rf"/(?P<noun>\w+)/(?P<name>[^/]+){_VERSION}"
)
_PLACED = re.compile(rf"(azureml:)?azureml://locations/[^/]+/workspaces/[^/]+/(?P<noun>\w+)/(?P<name>[^/]+){_VERSION}")
_JOB_OUTPUT = re.compile(
    r"(azureml:)?azureml://(?:[^:]+/)?jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(/paths(/(?P<path>.*?))?/?)?/?"
)
_RUN = re.compile(r"runs:/(?P<run>[^/]+)/(?P<path>.+?)/?")
OUTPUT_DATA = re.compile(r"azureml_(?P<job>.+)_output_data_(?P<output>[\w-]+)")
"""The name under which Azure registers an output of a job as data by itself: its version 1."""
_DATASTORE = re.compile(
    r"(azureml:)?azureml://(?:subscriptions/.+/)?datastores/(?P<datastore>[^/]+)/paths(/(?P<path>.*?))?/?"
)


def parse_reference(text: str) -> Reference | None:
    """Parse a reference; None where `text` has none of Azure ML's forms. A compute's id is its bare name."""
    if match := _JOB_OUTPUT.fullmatch(text):
        return JobOutputReference(match["job"], match["output"], match["path"] or "")
    if match := _DATASTORE.fullmatch(text):
        return StoredPath(match["datastore"], match["path"] or "")
    if match := _RUN.fullmatch(text):
        return JobOutputReference(match["run"], "artifacts", match["path"])
    match = next((m for form in (_REGISTRY, _ARM, _PLACED) if (m := form.fullmatch(text))), None)
    if match is None:
        short = parse_name(text.removeprefix("azureml:"))
        if isinstance(short, AssetReference):
            return _output_data(short) or short
        return None if text.startswith("azureml:") else short
    parts = match.groupdict()
    label = parts["label"] if parts["label"] != "latest" else None
    name = parts["name"].removeprefix("azureml:")  # the SDK leaves it in ids that it makes of `azureml:NAME@latest`
    if parts["noun"] == "computes":
        return AssetReference(name)
    if parts["noun"] not in _TYPES:
        return None
    asset = AssetReference(name, parts["version"], label, parts.get("registry"), _TYPES[parts["noun"]])
    return (_output_data(asset) if asset.type is AssetType.DATA else None) or asset


def _output_data(asset: AssetReference) -> JobOutputReference | None:
    """Return the output of a job that is the data of that name by itself."""
    match = OUTPUT_DATA.fullmatch(asset.name)
    is_first = asset.version in (None, "1") and not (asset.label or asset.registry)
    return JobOutputReference(match["job"], match["output"]) if match and is_first else None


def stored_path(uri: str) -> StoredPath | None:
    """Return the path of a datastore that an address names, or None for another address."""
    reference = parse_reference(uri)
    return reference if isinstance(reference, StoredPath) else None


def compute_name(id: str) -> str:
    """Return the name of the compute that an id, or a name, stands for."""
    return id.strip().rstrip("/").rsplit("/", 1)[-1].removeprefix("azureml:")
