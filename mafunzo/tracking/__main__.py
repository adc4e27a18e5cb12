"""`python -m mafunzo.tracking`: the process that shows jobs in MLflow."""

from mafunzo.tracking.mlflow_view import main

main()
