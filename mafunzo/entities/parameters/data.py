"""The rows, and what becomes of them before training."""

from mafunzo.entities.parameters.parameter import PREPARE_DATA, TRUTH, Parameter


def _splits(name: str, what: str, effect: str = "") -> tuple[Parameter, Parameter]:
    return (
        Parameter(
            f"{name}_file_path",
            "uri_file",
            f"The {what}: jsonl, ndjson, json, csv, tsv, parquet or arrow, also compressed, in "
            "OpenAI's, ShareGPT's, Alpaca's or prompt/completion form.",
            steps=(PREPARE_DATA,),
            effects={PREPARE_DATA: effect} if effect else {},
        ),
        Parameter(
            f"{name}_mltable_path",
            "mltable",
            f"The {what} as an MLTable folder; it wins over {name}_file_path.",
            steps=(PREPARE_DATA,),
        ),
    )


DATA = (
    Parameter(
        "task_name",
        "string",
        "The task; there is one.",
        default="ChatCompletion",
        enum=("ChatCompletion",),
        steps=(PREPARE_DATA,),
    ),
    *_splits("train", "rows to train on"),
    *_splits(
        "validation",
        "rows that training is evaluated on",
        "The rows that training is evaluated on; cut from the training rows where it isn't given.",
    ),
    *_splits(
        "test",
        "held-out rows that base and tuned model are compared on",
        "The held-out rows that base and tuned model are compared on; cut from the training rows where it isn't given.",
    ),
    Parameter(
        "batch_size",
        "integer",
        "Rows that are tokenised at a time; it changes speed and memory, never the result.",
        default=1000,
        minimum=1,
        unit="rows",
        steps=(PREPARE_DATA,),
    ),
    Parameter(
        "pad_to_max_length",
        "string",
        "Whether every row is padded to max_seq_length. It costs time and changes no result, because packing needs none.",
        default="false",
        enum=TRUTH,
        steps=(PREPARE_DATA,),
    ),
    Parameter(
        "max_seq_length",
        "integer",
        "The longest that a row may be; long_rows says what becomes of others. -1 means the longest that the model takes.",
        default=-1,
        minimum=-1,
        unit="tokens",
        steps=(PREPARE_DATA,),
        aliases=("cutoff_len", "sequence_len", "max_length"),
    ),
    Parameter(
        "long_rows",
        "string",
        "What becomes of a row with more tokens than max_seq_length: its end is cut off, it is dropped, or it is split by its "
        "turns into conversations that fit, each with the system message, so that no token to train on is lost; an exchange "
        "that is too long alone is cut into pieces.",
        default="truncate",
        enum=("truncate", "drop", "split"),
        steps=(PREPARE_DATA,),
        is_own=True,
    ),
    Parameter(
        "train_on",
        "string",
        "Which tokens of a conversation the loss counts: all turns of the assistant, its last one, or everything, what the "
        "others say and the template writes included. A weight of 0, or its like, in a message of the assistant leaves it out "
        "in each case.",
        default="assistant",
        enum=("assistant", "last", "everything"),
        steps=(PREPARE_DATA,),
        is_own=True,
    ),
    Parameter(
        "on_bad_row",
        "string",
        "What happens to a data file with rows that can't be used: the job fails before it trains, or the rows are skipped. "
        "Each is reported by file, row and reason.",
        default="fail",
        enum=("fail", "skip"),
        steps=(PREPARE_DATA,),
        is_own=True,
    ),
    Parameter(
        "split_seed",
        "integer",
        "Where a split isn't given as a file: draw its rows by this seed instead of taking them in order.",
        minimum=0,
        steps=(PREPARE_DATA,),
        is_own=True,
    ),
)
