"""What Azure ML's addresses in rows of version 0.1.0 name, as neutral facts."""

import re
from typing import Any

Json = dict[str, Any]

_VERSION = r"(/(versions/(?P<version>[^/]+)|labels/(?P<label>[^/]+)))?/?"
_ASSETS = tuple(
    re.compile(form + _VERSION)
    for form in (
        r"(azureml:)?azureml://registries/(?P<registry>[^/]+)/(?P<noun>\w+)/(?P<name>[^/]+)",
        r"(azureml:|azureml:/)?/subscriptions/[^/]+/resource[gG]roups/[^/]+/(providers/[^/]+/)?workspaces/[^/]+"
        r"/(?P<noun>\w+)/(?P<name>[^/]+)",
        r"(azureml:)?azureml://locations/[^/]+/workspaces/[^/]+/(?P<noun>\w+)/(?P<name>[^/]+)",
    )
)
_SHORT = re.compile(r"(?P<name>[^:@/]+)(:(?P<version>[^:@/]+)|@(?P<label>[^:@/]+))?")
_JOB_OUTPUT = re.compile(
    r"(azureml:)?azureml://(?:[^:]+/)?jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(/paths(/(?P<path>.*?))?/?)?/?"
)
_STORED = re.compile(
    r"(azureml:)?azureml://(?:subscriptions/.+/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+?)/?"
)
_WEB = re.compile(r"https?://[^/?#\s]+/\S*[^/\s]")
_TYPES = {
    "models": "model",
    "data": "data",
    "components": "component",
    "environments": "environment",
    "codes": "code",
}


def source(uri: str) -> Json:
    """Return the facts of an address: an output of a job, a path of a datastore, or else a file of the web."""
    if match := _JOB_OUTPUT.fullmatch(uri):
        return {"job": match["job"], "output": match["output"], "path": match["path"] or ""}
    if match := _STORED.fullmatch(uri):
        return {"datastore": match["datastore"], "path": match["path"]}
    return {"url": uri}


def reference(text: str) -> Json | None:
    """Return what an address names; None for one of another form."""
    facts = source(text)
    return facts if "url" not in facts or _WEB.fullmatch(text) else asset_reference(text)


def asset_reference(text: str) -> Json | None:
    """Return the asset that a text names; None for a text of another form."""
    match = next((match for form in _ASSETS if (match := form.fullmatch(text))), None)
    match = match or _SHORT.fullmatch(text.removeprefix("azureml:"))
    parts = match.groupdict() if match else {}
    noun = parts.get("noun")
    if not match or (noun and noun not in _TYPES):
        return None
    return {
        "name": parts["name"].removeprefix("azureml:"),
        "version": parts["version"],
        "label": parts["label"] if parts["label"] != "latest" else None,
        "registry": parts.get("registry"),
        "type": _TYPES[noun] if noun else None,
    }
