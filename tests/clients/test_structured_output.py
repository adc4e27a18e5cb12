"""Client libraries as they are, each in its own locked environment: what they get of an endpoint is an object of the class.

The model's weights are random: that its answers are what was asked for is the endpoint's doing.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.programs.plan import Plan
from tests.support.client_library import FOLDER, client_python, client_variables, node_folder

pytestmark = pytest.mark.slow

WAYS = {
    "openai": {
        "parse",
        "parse a call",
        "stream",
        "stream a call",
        "parse a response",
        "parse a response's call",
        "stream a response",
        "go on with a response",
    },
    "langchain": {
        "with_structured_output",
        "json_schema",
        "function_calling",
        "bind_tools any",
        "stream",
        "agent, provider",
        "agent, tool",
        "responses",
        "responses, bind_tools any",
    },
    "pydantic_ai": {
        "output_type",
        "tool",
        "native",
        "one of two",
        "after a tool",
        "stream",
        "responses",
        "responses, native",
        "responses, stream",
    },
    "instructor": {"from_provider", "tool_call", "tools_strict", "json_schema_mode", "partial"},
    "llama_index": {"structured_predict", "structured_predict by calls", "as_structured_llm", "program", "stream"},
    "litellm": {"response_format", "json_schema", "tool_choice", "stream a call"},
    "llm": {"--schema", "--schema, no stream", "--schema-multi"},
}
"""The ways in which each client is asked for an object, by `programs/use_CLIENT.py`."""


@pytest.mark.parametrize("client", WAYS)
def test_a_client_gets_objects_of_its_class(client: str, endpoint: dict[str, str], tmp_path: Path) -> None:
    program = FOLDER / "programs" / f"use_{client}.py"
    plans = answers([str(client_python(client)), str(program)], client_variables(endpoint, tmp_path))
    assert set(plans) == WAYS[client]


def test_openai_s_client_for_node_gets_objects_of_its_schema(endpoint: dict[str, str], tmp_path: Path) -> None:
    folder = node_folder()
    program = shutil.copy(FOLDER / "node" / "use_openai.js", folder)
    plans = answers([str(folder / "bin" / "node"), str(program)], client_variables(endpoint, tmp_path))
    assert set(plans) == {"parse", "parse a call", "stream"}


def answers(argv: list[str], variables: dict[str, str]) -> dict[str, Plan]:
    """Run a client's program, and return the objects that it shows, once more read strictly."""
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    plans = json.loads(done.stdout.splitlines()[-1])
    return {way: Plan.model_validate(plan, strict=True, extra="forbid") for way, plan in plans.items()}
