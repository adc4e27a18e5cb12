"""Azure's example for PyTorch, on scikit-learn's digits: metrics, a model that is registered and loaded again."""

import sys

import mlflow
import numpy
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.manual_seed(1)
images, test_images, labels, test_labels = train_test_split(*load_digits(return_X_y=True), random_state=1)
images, test_images = numpy.float32(images / 16), numpy.float32(test_images / 16)
network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
with mlflow.start_run():
    for step in range(100):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(torch.tensor(images)), torch.tensor(labels))
        loss.backward()
        optimizer.step()
        mlflow.log_metric("loss", loss.item(), step=step)
    with torch.no_grad():
        logits = network(torch.tensor(test_images)).numpy()
    mlflow.log_metric("test_accuracy", float((logits.argmax(axis=1) == test_labels).mean()))
    mlflow.pytorch.log_model(
        network, artifact_path="model", registered_model_name=sys.argv[1], input_example=test_images
    )
loaded = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}/1")
assert numpy.allclose(loaded.predict(test_images), logits, atol=1e-5)
