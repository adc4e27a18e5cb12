"""The picture of imports: drawn from the code in the layers of `.importlinter`, or refused with what is wrong."""

import importlib
import textwrap

import pytest

from tools import import_picture
from tools.import_picture import BEGIN, END, WrongImports, picture, read_imports, read_rules, with_picture

NESTED = """
    [importlinter]
    root_package = {root}

    [importlinter:contract:layers]
    name = Each layer imports only what is below it
    type = layers
    containers =
        {root}
    exhaustive_ignores =
        catalog
    layers =
        doors
        control | compute
        (cloud)
        rows : words
        errors

    [importlinter:contract:control]
    name = Within control
    type = layers
    containers =
        {root}.control
    layers =
        workspace
        pipelines | serving

    [importlinter:contract:other]
    name = Another kind of contract
    type = forbidden
    source_modules =
        {root}.doors
    forbidden_modules =
        {root}.compute
"""
SOURCES = {
    "doors/__init__.py": "",
    "doors/main.py": "from {root}.control.workspace import verbs",
    "control/__init__.py": "",
    "control/workspace/__init__.py": "",
    "control/workspace/verbs.py": "def verb():\n    from {root}.control.pipelines import plan",
    "control/pipelines/__init__.py": "",
    "control/pipelines/plan.py": "from {root}.words import parse\nfrom {root} import errors",
    "control/serving.py": "import {root}.errors",
    "compute.py": "from {root} import rows",
    "rows.py": "from {root}.words import parse",
    "words/__init__.py": "",
    "words/parse.py": "from {root}.errors import *",
    "errors.py": "",
    "catalog/__init__.py": "",
    "__init__.py": "",
}


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """Return a function that writes the package, with other sources over those above, and reads both."""
    root = f"fake_{abs(hash(request.node.nodeid))}"
    monkeypatch.syspath_prepend(tmp_path)

    def write(rules=NESTED, **changes):
        for path, source in (
            SOURCES | {name.replace("__slash__", "/"): text for name, text in changes.items()}
        ).items():
            file = tmp_path / root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source.format(root=root))
        (tmp_path / ".importlinter").write_text(textwrap.dedent(rules).format(root=root))
        importlib.invalidate_caches()
        return read_rules(tmp_path / ".importlinter"), read_imports(root)

    return write


def faults_of(package, file, source):
    rules, imports = package(**{file: source})
    with pytest.raises(WrongImports) as error:
        picture(rules, imports)
    return str(error.value).replace(rules.root, "fake").splitlines()


def test_layers_stand_from_top_to_bottom_and_parts_with_layers_of_their_own_side_by_side(package):
    drawing = picture(*package()).split("```")[1].strip("\n")
    assert drawing == textwrap.dedent(
        """\
        ┌──────────────────────────────────────────┐
        │ doors 2                                  │
        └──────────────────────────────────────────┘
        ┌── control 6 ────────────┐ ┌── compute 1 ─┐
        │ workspace 2             │ │              │
        ├─────────────────────────┤ │              │
        │ pipelines 2 │ serving 1 │ │              │
        └─────────────────────────┘ └──────────────┘
        ┌──────────────────────────────────────────┐
        │ rows 1 ╎ words 2                         │
        ├──────────────────────────────────────────┤
        │ errors 1                                 │
        └──────────────────────────────────────────┘"""
    )


def test_the_table_says_which_package_imports_which_in_functions_too(package):
    table = picture(*package()).split("```")[2].strip().splitlines()[2:]
    assert table == [
        "| `doors` | `control.workspace` |",
        "| `control.workspace` | `control.pipelines` |",
        "| `control.pipelines` | `words`, `errors` |",
        "| `control.serving` | `errors` |",
        "| `compute` | `rows` |",
        "| `rows` | `words` |",
        "| `words` | `errors` |",
        "| `errors` |  |",
    ]


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        pytest.param(
            "errors.py",
            "import {root}.words.parse",
            "fake.errors imports fake.words.parse: errors stands below words in .importlinter.",
            id="upwards",
        ),
        pytest.param(
            "errors.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {root}.rows",
            "fake.errors imports fake.rows: errors stands below rows in .importlinter.",
            id="upwards for the type checker",
        ),
        pytest.param(
            "compute.py",
            "def train():\n    import {root}.control.serving",
            "fake.compute imports fake.control.serving: compute stands beside control in .importlinter.",
            id="sideways in a function",
        ),
        pytest.param(
            "control/pipelines/plan.py",
            "import {root}.control.workspace.verbs",
            "fake.control.pipelines.plan imports fake.control.workspace.verbs: pipelines stands below workspace in .importlinter.",
            id="upwards within a part",
        ),
        pytest.param(
            "words/parse.py", "import {root}.rows", "fake: a circle of imports: rows -> words -> rows.", id="circle"
        ),
        pytest.param("tool.py", "", "fake.tool stands in no layer of .importlinter.", id="no layer"),
    ],
)
def test_imports_that_the_layers_forbid_are_no_picture(package, file, source, fault):
    assert fault in faults_of(package, file, source)


def test_a_layer_without_code_is_a_fault_unless_it_is_optional(package):
    rules, imports = package(rules=NESTED.replace("(cloud)", "cloud"))
    with pytest.raises(WrongImports, match=r"cloud has a layer in \.importlinter, and no code\."):
        picture(rules, imports)


def test_a_layers_contract_without_containers_is_refused(package):
    with pytest.raises(ValueError, match=r"\[importlinter:contract:control\] has no containers"):
        package(rules=NESTED.replace("    containers =\n        {root}.control\n", ""))


def test_only_what_stands_between_the_markers_of_a_page_is_drawn_anew(package):
    rules, imports = package()
    page = with_picture(f"Before\n{BEGIN}\nan old picture\n{END}\nafter\n", rules, imports)
    assert page == f"Before\n{BEGIN}\n{picture(rules, imports)}\n{END}\nafter\n"
    assert with_picture(page, rules, imports) == page


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{END}"])
def test_a_page_without_its_two_markers_is_refused(package, page):
    with pytest.raises(ValueError, match="needs one line"):
        with_picture(page, *package())


def test_this_repository_is_drawn_without_a_fault():
    rules, imports = read_rules(import_picture.ROOT / ".importlinter"), read_imports("mafunzo")
    assert import_picture.faults(rules, imports) == []
