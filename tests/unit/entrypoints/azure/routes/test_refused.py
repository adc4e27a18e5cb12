"""What is refused of the Azure SDK, by the path that it asks for."""

import pytest

from mafunzo.entrypoints.azure.routes.refused import refusal
from mafunzo.entrypoints.azure.wire.envelope import workspace_id

WS = workspace_id().lstrip("/")


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        pytest.param("GET", f"{WS}/schedules", "Schedules aren't run here", id="a noun"),
        pytest.param("PUT", f"{WS}/featuresets/one/versions/two", "Feature stores", id="below a noun"),
        pytest.param("POST", f"{WS}/serverlessEndpoints/one/listKeys", "Serverless endpoints", id="the noun, not its verb"),
        pytest.param("POST", f"{WS}/listKeys", "no keys of its own", id="a verb of the workspace"),
        pytest.param("POST", f"{WS}/models/one/versions/1/package", "Deploy the model as it is", id="a verb of a version"),
        pytest.param("PATCH", WS, "This home has one workspace", id="the workspace"),
        pytest.param("GET", f"{WS}/labels", f"GET /{WS}/labels isn't something", id="nothing known"),
    ],
)  # fmt: skip
def test_the_sentence_is_that_of_the_noun(method: str, path: str, told: str) -> None:
    error = refusal(method, path)
    assert told in str(error)
    assert error.code == "not_supported"
