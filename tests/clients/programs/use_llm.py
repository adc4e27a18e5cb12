"""`llm`, the command line: `--schema` and `--schema-multi` with a model of `extra-openai-models.yaml`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from plan import QUESTION, Plan, Step, show
from pydantic import BaseModel

LLM = Path(sys.executable).parent / "llm"
FOLDER = Path.home() / "llm"
FIRST = [Step(colour="red", coats=1)]
"""In place of a list that may be empty."""
MODEL = """
- model_id: chat
  model_name: chat
  api_base: {OPENAI_BASE_URL}
  api_key_name: mafunzo
  supports_schema: true
"""

FOLDER.mkdir()
(FOLDER / "extra-openai-models.yaml").write_text(MODEL.format_map(os.environ))
(FOLDER / "keys.json").write_text(json.dumps({"mafunzo": os.environ["OPENAI_API_KEY"]}))


def answer(*options: str, schema: type[BaseModel] = Plan) -> str:
    (file := FOLDER / "schema.json").write_text(json.dumps(schema.model_json_schema()))
    argv = [str(LLM), "-m", "chat", *options, str(file), QUESTION]
    environment = os.environ | {"LLM_USER_PATH": str(FOLDER)}
    return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout


several = json.loads(answer("--schema-multi", schema=Step))["items"]
show(
    {
        "--schema": Plan.model_validate_json(answer("--schema")),
        "--schema, no stream": Plan.model_validate_json(answer("--no-stream", "--schema")),
        "--schema-multi": Plan(steps=[Step.model_validate(item) for item in several][:2] or FIRST, is_last=None),
    }
)
