"""Data preparation: from data files and a tokenizer to a tokenized dataset (`input_ids`, `labels`), and a data report.

Here are deduplication against held-out rows, the train/validation/test split and padding. Rows are streamed in batches, so
memory doesn't grow with the files. The output folder appears at once, complete (atomic rename).
"""

import gc
import json
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from mafunzo.compute.chat.examples import IGNORED, Encoder, Example, TrainOn, Unusable, pieces
from mafunzo.compute.chat.long_rows import LongRows, examples_of
from mafunzo.compute.chat.row_cache import CACHED_ROWS, RowCache, tokenizer_key
from mafunzo.compute.chat.row_workers import Work, preparation, worker_count
from mafunzo.compute.chat.rows import PreparedRow, RowPreparer
from mafunzo.compute.chat.template import template_name
from mafunzo.compute.chat.tokenizer import context_length, load_tokenizer, padding_id
from mafunzo.compute.components.command import Arguments, run
from mafunzo.compute.components.data_report import Tally, as_json, draw_lengths, metrics, summary
from mafunzo.compute.model.folder import TOKENIZER_FILES, copy_files, new_folder
from mafunzo.dataset.check import BadRow, refuse
from mafunzo.dataset.files import RawRow, Source, open_source
from mafunzo.dataset.split import MINIMUM_TRAINING_ROWS, SPLITS, Share, split
from mafunzo.entities.conversation import conversation_from_dict
from mafunzo.entities.parameters.constraint import SPLIT_OF_LAST
from mafunzo.errors import Conflict, InvalidData, InvalidParameter
from mafunzo.tracking.atomic_json import write_json
from mafunzo.tracking.progress import Progress

logger = logging.getLogger(__name__)

PREVIEWED_ROWS = 5
SPLIT = "was longer than max_seq_length, and is split by its turns"
Places = dict[bytes, tuple[str, str]]
"""For deduplication: a conversation's fingerprint to the split and the place of its first occurrence."""
_IN_TRAINING = ("train", "")
"""What stands for the place of a training row, which nobody is told: one object for all, as there may be millions."""


@dataclass(frozen=True)
class PrepareDataArguments:
    """The prepare_data step's parameters, each under its own name."""

    trust_remote_code: bool
    task_name: Literal["ChatCompletion"]
    batch_size: int
    pad_to_max_length: bool
    max_seq_length: int
    long_rows: LongRows
    train_on: TrainOn
    on_bad_row: Literal["fail", "skip"]
    split_seed: int | None


@dataclass(frozen=True)
class Options:
    """max_seq_length: tokens, or None for no truncation; padding: the token id that pads rows to it, or None."""

    max_seq_length: int | None
    padding: int | None
    batch_size: int
    skips_bad_rows: bool
    long_rows: LongRows

    @property
    def split_at(self) -> int | None:
        """The tokens beyond which a row is split; None splits none."""
        return self.max_seq_length if self.long_rows == "split" else None


def work(arguments: Arguments) -> None:
    """Write the tokenized dataset, its tokenizer and the data report."""
    values, model = PrepareDataArguments(**arguments.values), arguments.path("model")
    tokenizer = load_tokenizer(model, values.trust_remote_code)
    options = _options(values, tokenizer, model)
    sources = _sources(arguments)
    shares = _shares(sources, values.split_seed)
    cache = _cache(arguments.cache, model, tokenizer, options.split_at, values, sum(map(len, shares.values())))
    with output_folder(arguments.outputs["prepared"]) as folder, _rare_collections():
        tallies = _prepare(
            folder, Work(RowPreparer(tokenizer, values.train_on, options.split_at), cache), sources, shares, options
        )
        refuse([] if options.skips_bad_rows else [row for tally in tallies.values() for row in tally.bad])
        _check_enough_is_left(tallies)
        copy_files(model, TOKENIZER_FILES, folder / "tokenizer")
        choices = {
            "max_seq_length": options.max_seq_length,
            "pad_to_max_length": values.pad_to_max_length,
            "pad_token_id": options.padding,
            "long_rows": values.long_rows,
            "train_on": values.train_on,
            "on_bad_row": values.on_bad_row,
            "split_seed": values.split_seed,
        }
        report = as_json(tallies, choices)
        write_json(folder / "report.json", report, indent=1, ensure_ascii=False)
        split_name = next(iter(tallies))
        write_json(folder / "preview.json", tallies[split_name].preview, indent=1, ensure_ascii=False)
        draw_lengths(tallies[split_name].full_lengths, split_name, options.max_seq_length, folder / "lengths.png")
    arguments.metrics.log(0, metrics(tallies))
    for line in summary(report):
        logger.info("%s", line)
    if cache is not None and cache.rows_reused:
        logger.info("The tokens of %s rows came from the cache, %s", f"{cache.rows_reused:,}", cache.folder)


def sequence_length(max_seq_length: int, tokenizer: Any, model: Path) -> int | None:
    """Return the length at which rows are truncated, in tokens: -1 means the model's context length, None no limit."""
    if max_seq_length == 0:
        raise InvalidParameter(
            "max_seq_length is 0, expected -1 (the longest that the model takes) or a number of tokens."
        )
    limit = context_length(tokenizer, model)
    if max_seq_length == -1 or limit is None:
        return limit if max_seq_length == -1 else max_seq_length
    if max_seq_length > limit:
        logger.warning("max_seq_length is %s, but the model takes %s tokens: rows are cut there", max_seq_length, limit)
    return min(max_seq_length, limit)


def _options(values: PrepareDataArguments, tokenizer: Any, model: Path) -> Options:
    length = sequence_length(values.max_seq_length, tokenizer, model)
    if values.pad_to_max_length and length is None:
        raise InvalidParameter("pad_to_max_length is true, but the model names no longest length. Set max_seq_length.")
    if values.long_rows == "split" and values.train_on == "last":
        raise InvalidParameter(SPLIT_OF_LAST)
    padding = padding_id(tokenizer) if values.pad_to_max_length else None
    return Options(length, padding, values.batch_size, values.on_bad_row == "skip", values.long_rows)


def _sources(arguments: Arguments) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for name in SPLITS:
        file, table = arguments.paths[f"{name}_file_path"], arguments.paths[f"{name}_mltable_path"]
        if file and table:
            logger.warning("%s_mltable_path is given, so %s_file_path isn't read", name, name)
        if path := table or file:
            sources[name] = open_source(path)
    if "train" not in sources:
        if "test" not in sources:
            raise InvalidParameter("The training rows are missing. Pass train_file_path or train_mltable_path.")
        logger.warning("No training rows are given: the others are prepared for an evaluation only")
    return sources


def _shares(sources: Mapping[str, Source], seed: int | None) -> dict[str, Share]:
    """Return each split's share of the rows (train/validation/test split); raises `InvalidData` for too few to train on."""
    file_shares = {name: Share(0, sources[name].count()) for name in SPLITS if name in sources}
    if "train" not in sources:
        return file_shares
    rows = len(file_shares["train"])
    if seed is not None and len(sources) == len(SPLITS):
        logger.warning("split_seed is %s, but each split is given as a file: nothing is drawn", seed)
    shares = split(rows, "validation" in sources, "test" in sources, seed)
    if len(shares["train"]) < MINIMUM_TRAINING_ROWS:
        raise InvalidData(
            f"{sources['train'].name} has {rows} rows, of which {len(shares['train'])} are for training, "
            f"expected {MINIMUM_TRAINING_ROWS} or more. Add rows, or pass validation and test rows as files of their own."
        )
    return {name: shares.get(name) or file_shares[name] for name in SPLITS}


def _cache(
    folder: Path | None, model: Path, tokenizer: Any, split_at: int | None, values: PrepareDataArguments, rows: int
) -> RowCache | None:
    """Return the token cache of a model's tokenizer; None where there is no place for it, or too few rows."""
    if folder is None or rows < CACHED_ROWS:
        return None
    patterns = (*TOKENIZER_FILES, "config.json")
    files = {file for pattern in patterns for file in model.glob(pattern) if file.is_file()}
    return RowCache(folder, tokenizer_key(files, template_name(tokenizer), values.train_on, split_at))


def _prepare(
    folder: Path, work: Work, sources: Mapping[str, Source], shares: Mapping[str, Share], options: Options
) -> dict[str, Tally]:
    """Write each split's files. Training is read last, so that held-out rows can be left out of it (no leakage)."""
    (folder / "raw").mkdir()
    held_out: Places = {}
    train_places: Places = {}
    tallies: dict[str, Tally] = {}
    with preparation(work, worker_count(sum(map(len, shares.values())))) as prepared:
        for name in sorted(shares, key=SPLITS.index, reverse=True):
            source = sources[name if name in sources else "train"]
            tallies[name] = tally = Tally(source=source.name, selection=_taken(shares[name], name, sources))
            rows = map(_noted, prepared(source.rows(shares[name].chosen())))
            progress = Progress(f"prepare {name}", len(shares[name]))
            with _writers(folder, name) as write:
                waiting: _Batch | None = None
                while batch := list(islice(rows, options.batch_size)):
                    good = tally.good_rows(batch)
                    selection = list(_without_held_out(good, held_out, tally) if name == "train" else good)
                    _remember(selection, name, held_out if name != "train" else train_places, tally)
                    _finish(waiting, work.preparer.encoder, options, tally, write, progress)
                    waiting = _Batch(selection, tally.rows_read)
                _finish(waiting, work.preparer.encoder, options, tally, write, progress)
    if work.cache is not None:
        work.cache.delete_oldest()
    return {name: tallies[name] for name in SPLITS if name in tallies}


@dataclass(frozen=True)
class _GoodRow:
    """A row that is a conversation, and where it stands."""

    file: str
    row: int
    prepared: PreparedRow

    @property
    def place(self) -> str:
        return f"{self.file}, row {self.row}"

    @property
    def format(self) -> str:
        return self.prepared.format

    @property
    def notes(self) -> tuple[str, ...]:
        return self.prepared.notes

    @property
    def line(self) -> str:
        """The conversation as JSON, with its place."""
        return f"{self.prepared.text[:-1]}, {json.dumps({'file': self.file, 'row': self.row}, ensure_ascii=False)[1:]}"


def _noted(pair: tuple[RawRow, PreparedRow]) -> _GoodRow | BadRow:
    raw, prepared = pair
    if prepared.fault:
        return BadRow(raw.file, raw.row, prepared.fault)
    return _GoodRow(raw.file, raw.row, prepared)


def _taken(share: Share, name: str, sources: Mapping[str, Source]) -> str:
    if name in sources and name != "train":
        return "all"
    return "drawn by seed" if share.order is not None else f"rows {share.first + 1} to {share.last}"


def _remember(rows: Iterable[_GoodRow], name: str, places: Places, tally: Tally) -> None:
    """Record the first place of each conversation; count the duplicates."""
    for row in rows:
        place = places.get(row.prepared.fingerprint)
        if place is None:
            places[row.prepared.fingerprint] = (name, row.place) if name != "train" else _IN_TRAINING
            continue
        tally.notes[
            "stands more than once in these rows" if place[0] == name else f"stands in the {place[0]} rows too"
        ] += 1


def _without_held_out(rows: Iterable[_GoodRow], held_out: Places, tally: Tally) -> Iterator[_GoodRow]:
    for row in rows:
        place = held_out.get(row.prepared.fingerprint)
        if place is None:
            yield row
        else:
            where = f"stands in the {place[0]} rows ({place[1]}) as well, so it is kept out of training"
            tally.left_out.append(BadRow(row.file, row.row, where))


@dataclass(frozen=True)
class _Batch:
    """Rows that become one row group. rows_read: of the split, with those of this batch."""

    rows: list[_GoodRow]
    rows_read: int


def _finish(
    batch: _Batch | None, encoder: Encoder, options: Options, tally: Tally, write: Any, progress: Progress
) -> None:
    """Count and write the examples of a batch; nothing is written once a row has failed the step."""
    if batch is None:
        return
    examples = list(_counted(batch, encoder, options, tally))
    if options.skips_bad_rows or not tally.bad:
        write(examples, options)
    progress.update(batch.rows_read, rows_kept=tally.rows_kept, tokens=tally.tokens)


def _counted(
    batch: _Batch, encoder: Encoder, options: Options, tally: Tally
) -> Iterator[tuple[_GoodRow, list[Example]]]:
    """Yield the rows that give examples; the others are counted in `tally`."""
    for row in batch.rows:
        examples = row.prepared.examples(options.max_seq_length, options.long_rows)
        if isinstance(examples, Unusable):
            where = tally.left_out if examples.is_too_long else tally.bad
            where.append(BadRow(row.file, row.row, examples.reason))
            continue
        tally.notes.update([*row.prepared.token_notes, *([SPLIT] if row.prepared.parts else [])])
        tally.rows_kept += 1
        tally.sequences += len(examples)
        tally.full_lengths.append(row.prepared.full_length or examples[0].full_length)
        for example in examples:
            tally.tokens += len(example.ids)
            tally.assistant_tokens += example.assistant_tokens
            tally.truncated_rows += example.is_truncated
        if len(tally.preview) < PREVIEWED_ROWS:
            tally.preview += _previewed(row, encoder, options)
        yield row, examples


def _previewed(row: _GoodRow, encoder: Encoder, options: Options) -> list[dict[str, Any]]:
    """Return the examples of a row, made once more with their pieces."""
    conversation = conversation_from_dict(json.loads(row.prepared.text))
    examples = examples_of(encoder, conversation, options.max_seq_length, options.long_rows)
    assert not isinstance(examples, Unusable), "the row gave examples before"
    return [{"file": row.file, "row": row.row, "pieces": list(pieces(example))} for example in examples]


@contextmanager
def _writers(folder: Path, name: str) -> Iterator[Any]:
    """Give a function that appends examples to a split's jsonl and parquet files, one row group at a time."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    ids = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", ids), ("labels", ids), ("file", pa.string()), ("row", pa.int64())])
    with ExitStack() as stack:
        raw = stack.enter_context((folder / "raw" / f"{name}.jsonl").open("w", encoding="utf-8"))
        table = stack.enter_context(ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd"))

        def write(rows: list[tuple[_GoodRow, list[Example]]], options: Options) -> None:
            raw.writelines(f"{row.line}\n" for row, _ in rows)
            examples = [(row, example) for row, its_examples in rows for example in its_examples]
            columns = {
                **_token_columns([example for _, example in examples], options),
                "file": [row.file for row, _ in examples],
                "row": [row.row for row, _ in examples],
            }
            if examples:
                table.write_table(pa.table(columns, schema=schema))

        yield write


def _token_columns(examples: Sequence[Example], options: Options) -> dict[str, Any]:
    """Return ids and labels as Arrow columns of int32, padded if that is set, without an object of Python for each."""
    import numpy as np
    import pyarrow as pa

    padding = [] if options.padding is None else [options.padding]
    bounds, ids, is_trained = [0], array("i"), bytearray()
    for example in examples:
        ids += example.ids
        end = len(is_trained)
        is_trained += bytes(len(example.ids))
        for first, last in example.trained:
            is_trained[end + first : end + last] = b"\x01" * (last - first)
        pad_count = (options.max_seq_length or 0) - len(example.ids) if padding else 0
        ids += array("i", padding) * pad_count
        is_trained += bytes(pad_count)
        bounds.append(len(ids))
    values = np.frombuffer(ids, np.int32) if ids else np.empty(0, np.int32)
    labels = np.where(np.frombuffer(is_trained, np.bool_), values, np.int32(IGNORED))
    offsets = pa.array(np.array(bounds, np.int32))
    return {"input_ids": pa.ListArray.from_arrays(offsets, values), "labels": pa.ListArray.from_arrays(offsets, labels)}


def _check_enough_is_left(tallies: Mapping[str, Tally]) -> None:
    for name, tally in tallies.items():
        least = MINIMUM_TRAINING_ROWS if name == "train" else min(1, tally.rows_read)
        if tally.rows_kept < least:
            reasons = Counter(row.kind for row in tally.dropped).most_common(5)
            raise InvalidData(
                f"Of {tally.rows_read} {name} rows {tally.rows_kept} can be used, expected {least} or more.",
                [f"{count} {'row' if count == 1 else 'rows'}: {reason}" for reason, count in reasons],
            )


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Have Python look for reference cycles seldom, and not among what was imported: it took a fifth of the time.

    Rows and tokens are objects by the million, and in no cycle, so that they are freed without it.
    """
    thresholds, was_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not was_frozen:
            gc.unfreeze()


@contextmanager
def output_folder(target: Path) -> Iterator[Path]:
    """Give a folder that becomes `target` when all is written; an error leaves nothing behind."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} exists already and isn't empty. Name another folder.")
    with new_folder(target) as folder:
        yield folder


if __name__ == "__main__":
    run(__file__, work)
