"""Files excluded from an upload of a folder as code, data or a model: `.amlignore`, or else `.gitignore`."""

from pathlib import Path

from pathspec import GitIgnoreSpec

IGNORE_FILES = (".amlignore", ".gitignore")
"""In the folder itself. The first that is there counts, as the Azure SDK has it."""
ALWAYS = ("__pycache__/",)


def kept_files(folder: Path) -> list[str]:
    """Return the paths, relative to the folder, of the files that are uploaded, sorted."""
    ignore_file = next((folder / name for name in IGNORE_FILES if (folder / name).is_file()), None)
    lines = ignore_file.read_text(encoding="utf-8").splitlines() if ignore_file else []
    ignored = GitIgnoreSpec.from_lines([*ALWAYS, *lines])
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(path for path in files if not ignored.match_file(path))
