import pytest

from mafunzo.entrypoints.azure.files.local_file import kept_files

FILES = ("main.py", "notes.log", "kept.log", "scratch/a.txt", "sub/scratch/b.txt", "sub/__pycache__/main.pyc")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_everything_is_kept_but_what_python_compiles(folder):
    assert kept_files(folder) == sorted(FILES[:-1])


@pytest.mark.parametrize("name", [".amlignore", ".gitignore"])
def test_a_folder_says_itself_what_stays_behind(folder, name):
    (folder / name).write_text("# not for the job\n*.log\n!kept.log\n/scratch/\n")
    assert kept_files(folder) == sorted([name, "main.py", "kept.log", "sub/scratch/b.txt"])


def test_azures_file_wins_over_gits(folder):
    (folder / ".gitignore").write_text("*.py\n")
    (folder / ".amlignore").write_text("*.log\n")
    assert "main.py" in kept_files(folder) and "notes.log" not in kept_files(folder)
