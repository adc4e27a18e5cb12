"""What a step writes elsewhere appears here whole, and goes here when it goes there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo.control.launcher.mirror import Mirror
from mafunzo.control.launcher.transfer import SentFile, files_of, read_block
from mafunzo.errors import ArtifactCorrupt
from mafunzo.tracking.step_folder import StepFolder


class There:
    """The other machine's folder. is_torn: what is read has other bytes than were hashed."""

    def __init__(self, root: Path) -> None:
        self.root, self.is_torn, self.gone = root, False, set[str]()

    def save(self, step: int) -> str:
        folder = self.root / "outputs" / "model" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(f"weights of {step}")
        (folder / "manifest.json").write_text("{}")
        return folder.relative_to(self.root).as_posix()

    def files(self, part: str) -> list[SentFile]:
        return files_of(self.root, [self.root / part])

    def read(self, path: str, start: int, size: int) -> bytes:
        if path in self.gone:
            raise FileNotFoundError(path)
        block = read_block(self.root / path, start, size)
        return block[::-1] if self.is_torn else block


@pytest.fixture
def there(tmp_path: Path) -> There:
    return There(tmp_path / "there")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def mirror(here: Path, there: There) -> Iterator[Mirror]:
    yield Mirror(here, lambda: there)


def names(here: Path) -> list[str]:
    return sorted(path.name for path in StepFolder(here).checkpoints)


def test_checkpoints_come_while_the_step_runs_and_those_that_go_there_go_here(
    mirror: Mirror, here: Path, there: There
) -> None:
    one, two = there.save(1), there.save(2)
    mirror.follow([one, two])
    mirror.wait()
    assert names(here) == ["checkpoint-1", "checkpoint-2"]
    assert (here / two / "weights").read_text() == "weights of 2"
    mirror.follow([two])
    mirror.wait()
    assert names(here) == ["checkpoint-2"]


def test_a_checkpoint_that_is_deleted_while_it_is_fetched_leaves_nothing(
    mirror: Mirror, here: Path, there: There
) -> None:
    one = there.save(1)
    there.gone.add(f"{one}/weights")
    mirror.follow([one])
    mirror.wait()
    assert [path.name for path in (here / "outputs" / "model").iterdir()] == []


def test_a_checkpoint_that_is_half_deleted_when_it_is_looked_at_is_left_out(
    mirror: Mirror, here: Path, there: There
) -> None:
    one, two = there.save(1), there.save(2)
    (there.root / one / "manifest.json").unlink()
    shutil.rmtree(there.root / two)
    mirror.follow([one, two])
    mirror.wait()
    assert [path.name for path in (here / "outputs" / "model").iterdir()] == []


def test_all_else_comes_at_the_end(mirror: Mirror, here: Path, there: There) -> None:
    one = there.save(1)
    (there.root / "outputs" / "model" / "adapter").write_text("weights")
    mirror.finish([one])
    assert (here / "outputs" / "model" / "adapter").read_text() == "weights"
    assert names(here) == ["checkpoint-1"]


def test_bytes_that_changed_on_the_way_are_told(mirror: Mirror, there: There) -> None:
    there.save(1)
    there.is_torn = True
    with pytest.raises(ArtifactCorrupt, match="arrived with other bytes than the node has"):
        mirror.finish(["outputs/model/checkpoint-1"])
