"""`python -m mafunzo.entrypoints.mlflow`: the process that shows jobs in MLflow."""

from mafunzo.entrypoints.mlflow.server import main

main()
