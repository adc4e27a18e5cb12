"""The tree of commands."""

import typer

from mafunzo.cli import (
    azure,
    component,
    compute,
    create,
    data,
    demo,
    endpoint,
    environment,
    finetune,
    job,
    lineage,
    mlflow,
    model,
    server,
    user,
)

app = typer.Typer(
    help="Fine-tune a chat model, prove that it got better, register it and serve it, on hardware that you own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 130 interrupted. Everything lies in MAFUNZO_HOME (~/.mafunzo).",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from mafunzo import __version__

        print(f"mafunzo {__version__}")
        raise typer.Exit


app.command("demo")(demo.demo)
app.command("up")(server.up)
app.command("down")(server.down)
app.command("run", context_settings={"allow_interspersed_args": False, "allow_extra_args": True})(azure.run)
app.command("env")(azure.env)
app.add_typer(model.app, name="model")
app.add_typer(data.app, name="data")
app.command("finetune", context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(finetune.finetune)
app.add_typer(job.app, name="job")
app.command("compare")(finetune.compare)
app.command("deploy")(endpoint.deploy)
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(compute.app, name="compute")
app.add_typer(component.app, name="component")
app.add_typer(environment.app, name="environment")
app.add_typer(user.app, name="user")
app.command("create")(create.create)
app.command("lineage")(lineage.lineage)
app.command("mlflow")(mlflow.mlflow)
app.command("backup")(server.backup)
app.command("restore")(server.restore)
