"""What the docs name is there: links, commands, generated references."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LIST_AFTER_TEXT = re.compile(r"^(?! |#|-|\d+\.|$)(?P<text>.+)\n(?:- |1\. )", re.MULTILINE)
PATH = re.compile(r"`([\w./-]+/|[\w./-]*\w\.(?:py|yml|jsonl|html|lock))`")
PATH_FROM_ROOT = re.compile(r"(?<![\w./-])(?:mafunzo|tests|tools|docs|examples|benchmarks)/[\w./*<>-]*[\w/*>]")
STAND_INS = {"metrics.jsonl", "x.py", "x.yml"}
"""What a step writes, and a name that stands for any component's."""
FILES = {file.name for folder in ("mafunzo", "tests", "tools", "docs") for file in (ROOT / folder).rglob("*.*")}
FIELD_TERMS = (
    "data order",
    "accelerator",
    "tokenized dataset",
    "LoRA",
    "model loading",
    "supervision",
    "idempotent",
    "pagination",
    "rate limit",
    "continuous batching",
    "mixed precision",
    "content-addressed",
    "gradient accumulation",
    "learning-rate scheduler",
    "early stopping",
    "hyperparameter",
    "presigned URL",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_shows_exists_and_has_its_options(page):
    import typer

    from mafunzo.entrypoints.main import app

    tree = typer.main.get_command(app)
    text = page.read_text().replace("\\\n", " ")
    inline = re.findall(r"`mafunzo ([a-z][^`]*)`", FENCE.sub("", text))
    for line in re.findall(r"^mafunzo ([a-z].*)$", text, re.MULTILINE) + inline:
        words = line.split("  #")[0].split()
        command = tree.commands.get(words[0])
        assert command is not None, line
        if hasattr(command, "commands") and len(words) > 1:
            assert words[1] in command.commands, line
            command = command.commands[words[1]]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert [word for word in words if word.startswith("--") and word not in options] == [], line


@pytest.mark.slow
def test_generated_files_are_current():
    done = subprocess.run([sys.executable, ROOT / "tools" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_clients_that_are_tested_are_those_of_the_page_in_their_versions():
    page = (ROOT / "docs" / "howto" / "use-a-client-library.md").read_text()
    stated = re.findall(r"^\| `([\w@./-]+)` \| ([\d.]+) \|", page, re.MULTILINE)
    locks = {file.stem: file.read_text() for file in (ROOT / "tests" / "clients" / "locks").glob("*.lock")}
    found = {client for client in locks for name, version in stated if f"{name}=={version}" in locks[client].split()}
    assert found == set(locks) and len(stated) == len(locks)
    packages = json.loads((ROOT / "tests" / "clients" / "node" / "package-lock.json").read_text())["packages"]
    assert f"| `openai` for Node | {packages['node_modules/openai']['version']} |" in page


def test_the_readme_s_commands_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_list_begins_after_an_empty_line_without_which_the_site_shows_it_as_text(page):
    lists = [match["text"] for match in LIST_AFTER_TEXT.finditer(FENCE.sub("", page.read_text()))]
    assert lists == []


def test_the_hooks_of_pre_commit_call_the_tools_that_make_static_calls():
    recipe = re.search(r"^static:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    tools = {tool_and_verb(line.replace("$(BIN)/", "").split()) for line in recipe.splitlines()}
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {tool_and_verb(hook["entry"].split()) for hook in repository["hooks"]} == tools
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


def tool_and_verb(words):
    return tuple(word for word in words[:2] if not word.startswith(("-", ".")))


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_template_has_what_its_form_needs(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "labels", "body"} == set(form)
    assert all({"type", "id", "attributes"} <= set(part) and part["attributes"]["label"] for part in form["body"])


@pytest.mark.parametrize("term", FIELD_TERMS)
def test_the_concepts_have_the_word_that_a_newcomer_would_look_for(term):
    assert term.lower() in (ROOT / "docs" / "concepts.md").read_text().lower()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_and_folder_that_a_page_on_the_code_names_is_there(name):
    """A path is from the root of the repository, of the package or of the tests; a bare file name is that of any file."""
    paths = {path for path in PATH.findall((ROOT / name).read_text()) if not re.search("[A-Z]{4}", path)}
    assert [path for path in sorted(paths - STAND_INS) if not is_there(path)] == []


def is_there(path):
    if "/" not in path:
        return path in FILES or (ROOT / path).exists()
    return any((root / path).exists() for root in (ROOT, ROOT / "mafunzo", ROOT / "tests"))


def test_the_file_map_has_a_line_for_each_folder_that_the_layers_name():
    from tools import import_picture

    page = (ROOT / "docs" / "architecture.md").read_text()
    drawn = import_picture.drawn_packages(import_picture.read_rules(ROOT / ".importlinter"))
    folders = [package.removeprefix("mafunzo.").replace(".", "/") for package in drawn]
    missing = [path for path in folders if (ROOT / "mafunzo" / path).is_dir() and f"| `{path}/` |" not in page]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_from_the_root_that_any_page_names_is_there(page):
    """In prose, a command or a program; on the pages for users the other paths are those of a home, of a step or of the user."""
    paths = set(PATH_FROM_ROOT.findall(page.read_text()))
    stand_ins = {path for path in paths if re.search("[A-Z]{4}|<", path) or Path(path).stem == "x"}
    assert [path for path in sorted(paths - stand_ins) if not list(ROOT.glob(path))] == []
