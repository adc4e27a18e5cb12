"""Azure's example for LightGBM on iris: autologging, a model that is registered and loaded again; XGBoost and scikit-learn too."""

import sys

import lightgbm
import mlflow
import xgboost
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

PARAMETERS = {
    "objective": "multiclass",
    "num_class": 3,
    "metric": "multi_logloss",
    "min_data_in_leaf": 5,
    "verbose": -1,
}

with mlflow.start_run():
    mlflow.lightgbm.autolog(log_models=False)
    rows, test_rows, labels, test_labels = train_test_split(*load_iris(return_X_y=True), random_state=1)
    data, held_out = lightgbm.Dataset(rows, label=labels), lightgbm.Dataset(test_rows, label=test_labels)
    model = lightgbm.train(PARAMETERS, data, num_boost_round=20, valid_sets=[held_out], valid_names=["test"])
    mlflow.log_metric("test_accuracy", float((model.predict(test_rows).argmax(axis=1) == test_labels).mean()))
    mlflow.lightgbm.log_model(model, artifact_path="model", registered_model_name=sys.argv[1])
    mlflow.sklearn.log_model(LogisticRegression(max_iter=500).fit(rows, labels), artifact_path="linear")
loaded = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}/1")
assert (loaded.predict(test_rows).argmax(axis=1) == model.predict(test_rows).argmax(axis=1)).all()
assert xgboost.XGBClassifier(n_estimators=20).fit(rows, labels).score(test_rows, test_labels) > 0.8
