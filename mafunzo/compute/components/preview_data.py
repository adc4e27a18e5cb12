"""Data preview: the first rows of a file after chat template, loss mask and truncation, and a check of all rows."""

from dataclasses import asdict, dataclass
from typing import Any

from mafunzo.compute.chat.examples import Encoder, Example, TrainOn, Unusable, pieces
from mafunzo.compute.chat.long_rows import LongRows, examples_of
from mafunzo.compute.chat.rows import UNREAD_FIELD
from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.components.command import Arguments, run
from mafunzo.compute.components.data_report import Tally
from mafunzo.compute.components.prepare_data import output_folder, sequence_length
from mafunzo.dataset.check import BadRow, read_conversations
from mafunzo.dataset.files import open_source
from mafunzo.entities.parameters.constraint import SPLIT_OF_LAST
from mafunzo.errors import InvalidParameter
from mafunzo.tracking.atomic_json import write_json


@dataclass(frozen=True)
class PreviewDataArguments:
    """The preview_data step's parameters, each under its own name."""

    rows: int
    max_seq_length: int
    long_rows: LongRows
    train_on: TrainOn
    trust_remote_code: bool


def work(arguments: Arguments) -> None:
    """Write `preview.json` and `report.json`; bad rows are listed, and stop nothing."""
    values, model = PreviewDataArguments(**arguments.values), arguments.path("model")
    if values.long_rows == "split" and values.train_on == "last":
        raise InvalidParameter(SPLIT_OF_LAST)
    tokenizer = load_tokenizer(model, values.trust_remote_code)
    max_seq_length = sequence_length(values.max_seq_length, tokenizer, model)
    encoder, source = Encoder(tokenizer, values.train_on), open_source(arguments.path("train_file_path"))
    source.count()
    rows: list[dict[str, Any]] = []
    tally = Tally(source=source.name, selection="all")
    for row in tally.good_rows(read_conversations(source)):
        if len(rows) < values.rows:
            examples = examples_of(encoder, row.conversation, max_seq_length, values.long_rows)
            if isinstance(examples, Unusable):
                tally.bad.append(BadRow(row.file, row.row, examples.reason))
            else:
                tally.notes.update(
                    UNREAD_FIELD.format(name) for name in encoder.unread_fields(row.conversation, examples[0])
                )
                rows += [_preview_row(row.file, row.row, example) for example in examples]
    report = {
        "rows_read": tally.rows_read,
        "bad": [asdict(row) for row in tally.bad],
        "formats": dict(tally.formats),
        "notes": dict(tally.notes),
        "max_seq_length": max_seq_length,
        "long_rows": values.long_rows,
        "train_on": values.train_on,
    }
    with output_folder(arguments.outputs["preview"]) as folder:
        write_json(folder / "preview.json", rows, indent=1, ensure_ascii=False)
        write_json(folder / "report.json", report, indent=1, ensure_ascii=False)


def _preview_row(file: str, row: int, example: Example) -> dict[str, Any]:
    return {
        "file": file,
        "row": row,
        "pieces": list(pieces(example)),
        "tokens": len(example.input_ids),
        "assistant_tokens": example.assistant_tokens,
        "truncated_from": example.full_length if example.is_truncated else None,
    }


if __name__ == "__main__":
    run(__file__, work)
