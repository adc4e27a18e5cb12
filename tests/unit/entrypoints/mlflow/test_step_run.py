"""How a user's step is told where MLflow is."""

from mafunzo.entrypoints.mlflow.step_run import step_variables


def test_a_step_is_told_the_key_apart_from_the_address() -> None:
    variables = step_variables("http://mafunzo:se-cret@127.0.0.1:8080/mlflow", "chat", "job1")
    assert variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:8080/mlflow"
    assert variables["MLFLOW_TRACKING_TOKEN"] == "se-cret"
    assert (variables["MLFLOW_EXPERIMENT_NAME"], variables["MLFLOW_RUN_ID"]) == ("chat", "job1")
