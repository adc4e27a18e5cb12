"""Azure's example for TensorFlow and Keras, on scikit-learn's digits: autologging, a model that is registered and loaded again."""

import sys

import mlflow
import numpy
import tensorflow
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

images, test_images, labels, test_labels = train_test_split(*load_digits(return_X_y=True), random_state=1)
images, test_images = images / 16, test_images / 16
with mlflow.start_run():
    mlflow.tensorflow.autolog(log_models=False)
    tensorflow.keras.utils.set_random_seed(1)
    layers = [tensorflow.keras.layers.Dense(64, "relu"), tensorflow.keras.layers.Dense(10)]
    model = tensorflow.keras.Sequential([tensorflow.keras.Input((64,)), *layers])
    loss = tensorflow.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(images, labels, epochs=8, verbose=2)
    mlflow.log_metric("test_accuracy", model.evaluate(test_images, test_labels, verbose=0)[1])
    mlflow.tensorflow.log_model(model, artifact_path="model", registered_model_name=sys.argv[1])
loaded = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}/1")
assert numpy.allclose(loaded.predict(test_images), model.predict(test_images, verbose=0), atol=1e-5)
