"""How the rows of a file are answered in a batch: what is asked, how replies are generated, and what fails the job."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mafunzo.entities.component import Input
from mafunzo.entities.parameters.parameter import Parameter

BATCH_SCORE = "batch_score"
SCORED_ROWS = Input(
    "data",
    "uri_file",
    "The rows to answer: jsonl, ndjson, json, csv, tsv, parquet or arrow, also compressed, or a folder of them. A conversation "
    "is answered at its last turn of the assistant, or at its end; a row may be a question alone: prompt, instruction, "
    "question, query, input or input_string.",
)
SCORING = (
    Parameter(
        "max_new_tokens",
        "integer",
        "The longest answer; a prompt that leaves no room for it in the model's context is an error of its row.",
        default=256,
        minimum=1,
        unit="tokens",
        steps=(BATCH_SCORE,),
        aliases=("max_tokens", "max_completion_tokens"),
        is_own=True,
    ),
    Parameter(
        "temperature",
        "number",
        "Divides the logits before a token is drawn; 0 takes the most likely one.",
        default=0.0,
        minimum=0,
        maximum=2,
        steps=(BATCH_SCORE,),
        is_own=True,
    ),
    Parameter(
        "top_p",
        "number",
        "The least probability mass that a token is drawn from.",
        default=1.0,
        above=0,
        maximum=1,
        steps=(BATCH_SCORE,),
        is_own=True,
    ),
    Parameter(
        "seed",
        "integer",
        "What the tokens are drawn by; each row adds its number, counted from 0, so that an answer depends on no other row.",
        default=42,
        minimum=0,
        maximum=4294967295,
        steps=(BATCH_SCORE,),
        aliases=("random_seed",),
        is_own=True,
    ),
    Parameter(
        "stop",
        "string",
        "A text that ends an answer and isn't part of it; several as a JSON list.",
        steps=(BATCH_SCORE,),
        is_own=True,
    ),
    Parameter(
        "max_batch",
        "integer",
        "Rows that are answered at once; fewer, where the memory for their tokens doesn't suffice.",
        default=64,
        minimum=1,
        unit="rows",
        steps=(BATCH_SCORE,),
        is_own=True,
    ),
    Parameter(
        "save_interval_s",
        "number",
        "What is answered is saved when this has passed, or a fiftieth of the step's time so far; a kill costs no more.",
        default=5.0,
        minimum=0,
        unit="seconds",
        steps=(BATCH_SCORE,),
        is_own=True,
    ),
    Parameter(
        "output_file_name",
        "string",
        "What the file of answers is called: *.jsonl has a JSON line a row, *.csv the answers without what was asked.",
        default="predictions.jsonl",
        steps=(BATCH_SCORE,),
        is_own=True,
    ),
    Parameter(
        "error_threshold",
        "integer",
        "Rows that may fail: one more ends the job. -1 takes any number, as long as one row is answered.",
        default=-1,
        minimum=-1,
        unit="rows",
        steps=(BATCH_SCORE,),
        is_own=True,
    ),
)
"""The parameters of batch scoring, which a fine-tuning job doesn't have."""
_FILE_NAME = re.compile(r"[\w][\w.-]*\.(jsonl|csv)")
REPORT_FILE = "report.json"


def scoring_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with values of the parameters that their types and ranges don't say."""
    name = str(values["output_file_name"])
    if not _FILE_NAME.fullmatch(name):
        yield f"output_file_name is '{name}', expected a name without folders that ends in .jsonl or .csv."
    if stop_texts(values.get("stop")) is None:
        yield f"stop is '{values['stop']}', expected a text, or a JSON list of texts."


def stop_texts(stop: str | None) -> tuple[str, ...] | None:
    """Return the texts that end an answer; None for a JSON list that isn't one of texts."""
    if not stop or not stop.startswith("["):
        return (stop,) if stop else ()
    try:
        texts = json.loads(stop)
    except ValueError:
        return (stop,)  # a text that begins so
    return tuple(texts) if all(isinstance(text, str) and text for text in texts) else None
