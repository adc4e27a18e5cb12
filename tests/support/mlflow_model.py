"""A model as small as one can be, for `mlflow.pyfunc`: it says things backwards."""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Backwards(PythonModel):
    def predict(self, context: object, model_input: list[str]) -> list[str]:
        return [text[::-1] for text in model_input]


set_model(Backwards())
