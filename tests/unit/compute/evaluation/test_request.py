"""What is evaluated: an adapter beside its base, or a whole model."""

from pathlib import Path

from mafunzo.compute.components import evaluate
from mafunzo.compute.evaluation.request import EvaluationArguments, EvaluationRequest
from tests.support.component_line import values_of


def test_an_adapter_is_known_by_its_configuration(tmp_path: Path) -> None:
    arguments = EvaluationArguments(**values_of(evaluate, tmp_path))
    request = EvaluationRequest(tmp_path, tmp_path, tmp_path, arguments)
    assert not request.is_adapter and request.config.metrics
    (tmp_path / "adapter_config.json").touch()
    assert request.is_adapter
