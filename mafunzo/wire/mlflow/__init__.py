"""MLflow's REST dialect."""
