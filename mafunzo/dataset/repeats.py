"""Repeats across splits: which training rows stand in validation or test rows too, as a job will find them.

A job leaves such rows out of training (no leakage), and keeps rows that repeat within a split. The split is the job's own
(`split`), so that what is counted here before a job starts is what its `prepare_data` step counts.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mafunzo.dataset.check import Report
from mafunzo.dataset.split import MINIMUM_TRAINING_ROWS, SPLITS, split

SHOWN_NOTES = 10


@dataclass(frozen=True)
class SplitsReport:
    """The reports of the files of a job, by split; validation and test rows without a file are cut from the training file."""

    reports: Mapping[str, Report]
    seed: int | None = None

    def training_rows(self) -> int:
        """Return how many rows of the training file are the job's training rows, usable or not."""
        return len(self._share("train"))

    def left_out(self) -> dict[str, int]:
        """Return how many training rows are left out, by the split that they stand in too; the test rows count first."""
        held_out: dict[bytes, str] = {}
        for name in ("test", "validation"):
            for fingerprint in self._fingerprints(name):
                held_out.setdefault(fingerprint, name)
        counts = Counter(held_out[row] for row in self._fingerprints("train") if row in held_out)
        return {name: counts[name] for name in SPLITS if counts[name]}

    def fault(self) -> str:
        """Return why the training file has too few rows that can be used, or an empty text."""
        usable = len(self._fingerprints("train"))
        if "train" not in self.reports or usable >= MINIMUM_TRAINING_ROWS:
            return ""
        rows, share = self.reports["train"].rows_read, self.training_rows()
        good = f" and {usable} can be used" if usable < share else ""
        return (
            f"train has {rows} rows, of which {share} are for training{good}, "
            f"expected {MINIMUM_TRAINING_ROWS} or more. Add rows, or pass validation and test rows as files of their own."
        )

    def sentences(self) -> Iterator[str]:
        """Yield for people what repeats, and what a job does with it."""
        for name, report in self.reports.items():
            rows = self._of_rows(name)
            if report.equal_rows:
                yield f"{report.equal_rows:,} {rows} equal an earlier one; rows that repeat within a split are kept"
            if report.equal_prompts:
                yield f"{report.equal_prompts:,} {rows} have the prompt of an earlier one with another answer; they are kept"
        if left_out := self.left_out():
            places = " and ".join(f"{count:,} in the {name} rows" for name, count in left_out.items())
            cut = [name for name in ("validation", "test") if name not in self.reports]
            origin = f", where a job cuts {' and '.join(cut)} rows from the training file" if cut else ""
            yield (
                f"{sum(left_out.values()):,} of the {self.training_rows():,} training rows are left out of training, "
                f"since they stand elsewhere too: {places}{origin}"
            )
            remaining = len(self._fingerprints("train")) - sum(left_out.values())
            if remaining < MINIMUM_TRAINING_ROWS:
                yield f"{remaining:,} of the training rows remain, and a job fails with fewer than {MINIMUM_TRAINING_ROWS}"

    def notes(self) -> list[str]:
        """Return in sentences what a job leaves out, what is unusual or not read, and what repeats."""
        lines = []
        for name, report in self.reports.items():
            of_rows = self._of_rows(name)
            lines += [
                f"{count:,} {of_rows} can't be used and are left out: {kind}" for kind, count in report.reasons.items()
            ]
            lines += [f"{count:,} {of_rows}: {note}" for note, count in report.notes.most_common(SHOWN_NOTES)]
            if (others := len(report.notes) - SHOWN_NOTES) > 0:
                lines.append(f"{others:,} further notes on the {name} rows: mafunzo data check FILE")
        return [*lines, *self.sentences()]

    def _of_rows(self, name: str) -> str:
        kind = f"{name} rows" if len(self.reports) > 1 else "rows"
        return f"of the {self.reports[name].rows_read:,} {kind}"

    def _fingerprints(self, name: str) -> list[bytes]:
        is_file = name != "train" and name in self.reports
        rows = self.reports[name].fingerprints if is_file else self._share(name)
        return [row for row in rows if row]

    def _share(self, name: str) -> list[bytes]:
        """Return the rows of the training file that a split takes of it."""
        if "train" not in self.reports:
            return []
        rows = self.reports["train"].fingerprints
        shares = split(len(rows), "validation" in self.reports, "test" in self.reports, self.seed)
        return [rows[index] for index in shares[name].chosen()]


def by_split(reports: Mapping[str, Report], seed: int | None = None) -> SplitsReport:
    """Return the report on the files of one job, the training file first."""
    return SplitsReport({name: reports[name] for name in SPLITS if name in reports}, seed)
