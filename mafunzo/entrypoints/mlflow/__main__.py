"""`python -m mafunzo.tracking`: the process that shows jobs in MLflow."""

from mafunzo.entrypoints.mlflow.server import main

main()
