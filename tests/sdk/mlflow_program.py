"""A user's program that does with MLflow what its users do, at the URI that it is given or that the workspace tells."""

import json
import os
import sys
from importlib.metadata import entry_points

import mlflow

NAME, MODEL = sys.argv[1:3]

if "MLFLOW_TRACKING_URI" not in os.environ:
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    workspace = MLClient(DefaultAzureCredential(), "00000000-0000-0000-0000-000000000", "mafunzo", "mafunzo")
    mlflow.set_tracking_uri(workspace.workspaces.get("mafunzo").mlflow_tracking_uri)
mlflow.set_experiment(NAME)
with mlflow.start_run(run_name="outer") as run:
    mlflow.log_params({"lr": 0.1, "layers": 2})
    mlflow.log_metrics({"loss": 1.5, "accuracy": 0.5}, step=1)
    mlflow.log_text("hello", "notes/a.txt")
    with mlflow.start_run(run_name="inner", nested=True):
        mlflow.log_metric("loss", 2.5)
    logged = mlflow.pyfunc.log_model(name="model", python_model=MODEL, pip_requirements=["mlflow"])
version = mlflow.register_model(f"runs:/{run.info.run_id}/model", NAME)
found = mlflow.search_runs(experiment_names=[NAME], filter_string="params.lr = '0.1'", output_format="list")[0]
json.dump(
    {
        "plugins": sorted(point.name for point in entry_points(group="mlflow.tracking_store")),
        "scheme": mlflow.get_tracking_uri().partition(":")[0],
        "metrics": found.data.metrics,
        "text": mlflow.artifacts.load_text(f"{found.info.artifact_uri}/notes/a.txt"),
        "files": [file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "notes")],
        "version": version.version,
        "models": [model.name for model in mlflow.search_registered_models(filter_string=f"name = '{NAME}'")],
        "of_the_run": mlflow.pyfunc.load_model(logged.model_uri).predict(["abc"]),
        "of_the_registry": mlflow.pyfunc.load_model(f"models:/{NAME}/{version.version}").predict(["abc"]),
    },
    sys.stdout,
)
