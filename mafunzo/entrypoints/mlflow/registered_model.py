"""MLflow's model registry as JSON: registered models, their versions, where their files lie, and errors."""

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlsplit

from mafunzo import errors
from mafunzo.entities.asset import Asset, RegisteredModel
from mafunzo.entities.reference import AssetReference
from mafunzo.entrypoints.mlflow.filter import Facts
from mafunzo.errors import InvalidParameter, MafunzoError
from mafunzo.tracking.run import job_run_id

ARTIFACTS = "mlflow-artifacts:/"
FOLDER = "registered-models"
"""The folder of MLflow's artifacts in which the files of registered models are seen."""
ARCHIVED, UNSTAGED = "Archived", "None"
PROMPT_TAG = "mlflow.prompt.is_prompt"
ECHO = "mlflow"
"""The name of what a version keeps of a request of MLflow's: its source, run and logged model."""

MODEL_KEYS = ("name", "creation_timestamp", "last_updated_timestamp")
VERSION_KEYS = (*MODEL_KEYS, "version_number", "run_id", "source_path")
"""The fields by which models and versions are searched and sorted, besides tags."""

CODES: Mapping[type[MafunzoError], str] = {
    errors.MafunzoError: "INTERNAL_ERROR",
    errors.UsageError: "INVALID_PARAMETER_VALUE",
    errors.NotFound: "RESOURCE_DOES_NOT_EXIST",
    errors.RefusedError: "RESOURCE_CONFLICT",
    errors.NotSupported: "INVALID_PARAMETER_VALUE",
    errors.Unauthorized: "UNAUTHENTICATED",
    errors.Forbidden: "PERMISSION_DENIED",
    errors.RateLimitExceeded: "REQUEST_LIMIT_EXCEEDED",
    errors.Unavailable: "TEMPORARILY_UNAVAILABLE",
}
"""MLflow's code of each class; one that isn't here has that of its nearest ancestor."""

_LOGGED_MODEL = re.compile(r"models:/(?P<id>m-[^/@]+)(/(?P<path>.*))?$")
_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(/(?P<version>[^/@]+)|@(?P<label>[^/@]+))$")
_RUN = re.compile(r"runs:/(?P<id>[^/]+)/(?P<path>.+)$")
_SERVED = re.compile(r".*/api/2\.0/mlflow-artifacts/artifacts/(?P<path>.+)$")


@dataclass(frozen=True)
class ArtifactSource:
    """A folder among MLflow's artifacts, as a pattern of its path: `*` stands for the experiment where it isn't told."""

    pattern: str


def parse_source(source: str) -> AssetReference | ArtifactSource:
    """Return where a new version's files lie; raises `InvalidParameter` for files that this server doesn't have."""
    if match := _LOGGED_MODEL.match(source):
        return _artifacts(source, "*", "models", match["id"], "artifacts", match["path"])
    if match := _VERSION.match(source):
        return AssetReference(match["name"], match["version"], match["label"])
    if match := _RUN.match(source):
        return _artifacts(source, "*", match["id"], "artifacts", match["path"])
    if source.startswith("mlflow-artifacts:"):
        return _artifacts(source, urlsplit(source).path.lstrip("/"))
    if match := _SERVED.match(source):
        return _artifacts(source, match["path"])
    raise InvalidParameter(
        f"The model lies at '{source}', where Mafunzo has no files. Register what a run has logged "
        "(runs:/RUN/PATH), or a folder: mafunzo model register FOLDER --name NAME."
    )


def run_and_name(source: str) -> tuple[str, str] | None:
    """Return the run and the name in `runs:/RUN/NAME`; None for another source."""
    match = _RUN.match(source)
    return (match["id"], match["path"]) if match else None


def logged_model_search(experiment: str, run: str, name: str) -> dict[str, Any]:
    """Return MLflow's search for the model that a run has logged under a name: it isn't among the run's files."""
    clauses = f"source_run_id = '{_quotable(run)}' AND name = '{_quotable(name)}'"
    return {"experiment_ids": [experiment], "filter": clauses}


def registered_model_body(model: RegisteredModel) -> dict[str, Any]:
    """Return a registered model; its latest version is the newest that isn't archived."""
    active = [version for version in model.versions if not version.is_archived]
    moments = [version.created_at for version in model.versions]
    return {
        "name": model.name,
        "creation_timestamp": _ms(model.created_at),
        "last_updated_timestamp": max(map(_ms, [model.created_at, *moments])),
        "user_id": model.created_by,
        "description": model.description,
        "latest_versions": [model_version_body(version, model.labels) for version in active[:1]],
        "tags": _pairs(model.tags),
        "aliases": [{"alias": label, "version": version} for label, version in model.labels.items()],
    }


def model_version_body(asset: Asset, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return a version; `labels` are those of its name. MLflow's stages but one have no meaning here: labels have."""
    return {
        "name": asset.name,
        "version": asset.version,
        "creation_timestamp": _ms(asset.created_at),
        "last_updated_timestamp": _ms(asset.created_at),
        "user_id": asset.created_by,
        "current_stage": ARCHIVED if asset.is_archived else UNSTAGED,
        "description": asset.description,
        "source": _source_of(asset),
        "run_id": _run_of(asset),
        "model_id": str(_echo(asset).get("model_id") or ""),
        "status": "READY",
        "tags": _pairs(asset.tags),
        "aliases": [label for label, version in labels.items() if version == asset.version],
    }


def download_uri(asset: Asset) -> str:
    """Return where a version's files are read."""
    return f"{ARTIFACTS}{FOLDER}/{asset.name}/{asset.version}"


def model_facts(model: RegisteredModel) -> Facts:
    """Return the fields by which registered models can be searched."""
    body = registered_model_body(model)
    return {key: body[key] for key in MODEL_KEYS} | _tag_facts(model.tags)


def version_facts(asset: Asset) -> Facts:
    """Return the fields by which versions can be searched."""
    body = model_version_body(asset, {})
    body |= {"version_number": int(asset.version) if asset.version.isdigit() else 0, "source_path": body["source"]}
    return {key: body[key] for key in VERSION_KEYS} | _tag_facts(asset.tags)


def tags_of(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a request."""
    return {str(tag["key"]): str(tag.get("value", "")) for tag in body.get("tags") or ()}


def error_body(error: MafunzoError, is_creation: bool) -> tuple[int, dict[str, str]]:
    """Return the status and body of an error; MLflow's client expects its own code where a thing to create exists."""
    if is_creation and isinstance(error, errors.Conflict):  # MLflow's own server answers 400, which its clients expect
        return 400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": str(error)}
    code = next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)
    return error.status, {"error_code": code, "message": str(error)}


def _artifacts(source: str, *parts: str | None) -> ArtifactSource:
    """Put a pattern together; a part that is `*` stays one, all else is taken literally."""
    path = "/".join(part if part == "*" else glob.escape(part) for part in parts if part)
    if any(part in ("", ".", "..") or "\0" in part for part in path.rstrip("/").split("/")):
        raise InvalidParameter(f"The model's source '{source}' isn't a path among MLflow's artifacts.")
    return ArtifactSource(path)


def _quotable(text: str) -> str:
    if "'" in text:
        raise InvalidParameter(
            f"The model's source has a quote in '{text}'. Register models:/ID, as log_model tells it."
        )
    return text


def _echo(asset: Asset) -> Mapping[str, str]:
    return cast(Mapping[str, str], asset.echoes.get(ECHO, {}))


def _source_of(asset: Asset) -> str:
    if "source" in _echo(asset):
        return str(_echo(asset)["source"])
    if "job" in asset.properties:
        return f"azureml://jobs/{asset.properties['job']}/outputs/{asset.properties.get('job_output')}"
    return download_uri(asset)


def _run_of(asset: Asset) -> str:
    job = asset.properties.get("job")
    return str(_echo(asset).get("run_id") or (job_run_id(str(job)) if job else ""))


def _tag_facts(tags: Mapping[str, str]) -> Facts:
    return {f"tags.{PROMPT_TAG}": "false", **{f"tags.{name}": value for name, value in tags.items()}}


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _ms(moment: datetime | None) -> int:
    return 0 if moment is None else int(moment.timestamp() * 1000)
