"""Azure's tutorial for scikit-learn: train with autologging, log and register the model, and load it again."""

import sys

import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

with mlflow.start_run():
    mlflow.sklearn.autolog(log_models=False)
    rows, test_rows, labels, test_labels = train_test_split(*load_iris(return_X_y=True), random_state=1)
    model = LogisticRegression(max_iter=500).fit(rows, labels)
    mlflow.log_metric("test_accuracy", model.score(test_rows, test_labels))
    mlflow.sklearn.log_model(sk_model=model, artifact_path="model", registered_model_name=sys.argv[1])
loaded = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}/1")
assert (loaded.predict(test_rows) == model.predict(test_rows)).all()
