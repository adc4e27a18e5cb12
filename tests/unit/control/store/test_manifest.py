"""What stands in a manifest, and which of them lead out of their folder."""

import json

import pytest

from mafunzo.control.store.manifest import Manifest, StoredFile, is_inside, parse
from mafunzo.errors import ArtifactCorrupt

FILE = StoredFile("a/run.sh", "0f" * 32, 3, is_executable=True)


def test_a_manifest_comes_back_from_its_canonical_text() -> None:
    manifest = Manifest("folder", (FILE, StoredFile("b", "1e" * 32, 0)), ("empty",))
    assert parse("sha256:x", manifest.as_json()) == manifest
    assert b'"executable":true' in manifest.as_json() and b" " not in manifest.as_json()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("a/b.txt", True, id="a file below"),
        pytest.param("..a/b", True, id="a name that begins with dots"),
        pytest.param("a/../../b", False, id="up and out"),
        pytest.param("/etc/passwd", False, id="from the root"),
        pytest.param("", False, id="no name"),
        pytest.param("a\0b", False, id="a null character"),
    ],
)
def test_a_path_leads_out_of_its_folder_or_not(path: str, expected: bool) -> None:
    assert is_inside(path) is expected


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"empty_folders": ["../x"]}, id="a folder elsewhere"),
        pytest.param({"files": [{"path": "/x", "sha256": "0f" * 32, "size": 1}]}, id="a file elsewhere"),
        pytest.param({"files": [{"path": "x", "sha256": "../../x", "size": 1}]}, id="no hash"),
    ],
)
def test_a_manifest_that_would_write_elsewhere_is_refused(change: dict[str, object]) -> None:
    text = json.dumps(json.loads(Manifest("folder", (FILE,)).as_json()) | change).encode()
    with pytest.raises(ArtifactCorrupt, match="would write outside of its folder"):
        parse("sha256:x", text)
