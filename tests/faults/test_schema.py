"""Schemathesis on the OpenAPI document of both ports: it takes every route's parameters where the fuzzer wouldn't."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from mafunzo import Workspace
from tests.faults.fuzz import RIGHT_5XX, Fuzzer, applications

EXAMPLES = 5
DOCUMENTS = [schemathesis.openapi.from_dict(application.openapi()) for application in applications()]
OPERATIONS = [
    pytest.param(is_azure, path, method, id=f"{method.upper()} {path}")
    for is_azure, document in enumerate(DOCUMENTS)
    for path, methods in document.raw_schema["paths"].items()
    for method in methods
    if "mlflow" not in path  # which passes on to MLflow's own server
]


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    """What knows a server and its keys."""
    with Workspace(tmp_path_factory.mktemp("home"), port=0) as opened:
        opened.up()
        yield Fuzzer(opened)
        opened.down()


@pytest.mark.parametrize(("is_azure", "path", "method"), OPERATIONS)
def test_no_parameters_break_a_route(fuzzer: Fuzzer, is_azure: bool, path: str, method: str) -> None:
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(DOCUMENTS[is_azure][path][method].as_strategy())
    def ask(case: Any) -> None:
        answer = case.call(**fuzzer.options(is_azure))
        assert answer.status_code < 500 or answer.status_code in RIGHT_5XX, answer.text

    ask()
    assert fuzzer.check_right_requests() == []
