"""`python -m mafunzo.tracking`: the process that shows jobs in MLflow."""

from mafunzo.tracking.mlflow_server import main

main()
