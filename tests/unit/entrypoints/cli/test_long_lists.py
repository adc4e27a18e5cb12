"""Lists of a home with many past jobs: each shows a page, reads no more than that, and says how the rest is seen."""

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.store.codec import encode
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.component import Component, Source
from mafunzo.entities.compute import Compute
from mafunzo.entities.environment import Environment, environment_facts
from tests.support.command_line import Shell
from tests.support.past_jobs import add_past_jobs
from tests.support.rows_read import rows_read

NUMBER = 101
Add = Callable[[Workspace], object]


def add_jobs(workspace: Workspace) -> None:
    add_past_jobs(workspace.database, workspace.home, NUMBER, has_files=False)


def add_components(workspace: Workspace) -> None:
    for number in range(NUMBER):
        component = Component(f"c{number}", "1", "command", command="true")
        add_asset(workspace, AssetType.COMPONENT, component.name, component=encode(component), source=encode(Source()))


def add_environments(workspace: Workspace) -> None:
    for number in range(NUMBER):
        environment = Environment(f"e{number}", "1", packages=("numpy",))
        add_asset(workspace, AssetType.ENVIRONMENT, environment.name, **environment_facts(environment))


def add_asset(workspace: Workspace, type: AssetType, name: str, **properties: Any) -> None:
    key = AssetKey(WORKSPACE_SCOPE, type, name, "1")
    workspace.records.assets.add(Asset(key, FolderType.URI_FOLDER, properties=properties))
    hidden = Asset(AssetKey(WORKSPACE_SCOPE, type, f"hidden-{name}", "1"), FolderType.URI_FOLDER, properties=properties)
    workspace.records.assets.add(hidden)
    workspace.versions[type].change(hidden, is_archived=True, is_anonymous=True)


def add_endpoints(workspace: Workspace) -> None:
    for number in range(NUMBER):
        workspace.endpoints.create(f"endpoint-{number:03}")


def add_computes(workspace: Workspace) -> None:
    for number in range(NUMBER):
        workspace.computes.create(Compute(f"compute-{number:03}", "local"))


def add_users(workspace: Workspace) -> None:
    for number in range(NUMBER):
        workspace.users.create(f"user-{number:03}", "reader")


@pytest.mark.parametrize(
    ("noun", "add", "table"),
    [
        ("job", add_jobs, "job"),
        ("model", add_jobs, "asset"),
        ("component", add_components, "asset"),
        ("environment", add_environments, "asset"),
        ("endpoint", add_endpoints, "endpoint"),
        ("compute", add_computes, "compute"),
        ("user", add_users, "user"),
    ],
)
def test_a_list_reads_and_shows_a_page_and_following_what_it_says_shows_all_once(
    noun: str, add: Add, table: str, shell: Shell, workspace: Workspace
) -> None:
    add(workspace)
    everything = names(shell(noun, "list", "--all", "--json"))
    if noun == "environment":  # there --all has the archived ones too
        everything = [name for name in everything if not name.startswith("hidden")]
    words, pages = [noun, "list"], []
    while words:
        with rows_read() as rows:
            told = shell(*words).splitlines()
        assert rows[table] <= 52, "the page, one more, and the one after which it begins"
        assert rows[table] > 50 or pages
        more = re.fullmatch(r"There are more: mafunzo (.*), or all: mafunzo (.*)", told[-1])
        rest, words = (told[:-1], shlex.split(more[1])) if more else (told, [])
        assert more is None or shlex.split(more[2]) == [noun, "list", "--all"]
        pages.append([row.split()[0] for row in rest[1:] if row[0] != " "])
    assert len(pages[0]) == 50 and len(pages) >= 3
    assert [name for page in pages for name in page] == everything


def names(text: str) -> list[str]:
    bodies = json.loads(text)
    return [body["key"]["name"] if "key" in body else body["name"] for body in bodies]


def test_a_program_that_names_no_limit_is_told_on_stderr_that_there_is_more(shell: Shell, workspace: Workspace) -> None:
    add_users(workspace)
    unlimited = shell.run("user", "list", "--json")
    assert len(json.loads(unlimited.stdout)) == 50
    assert unlimited.stderr == ("There are more: mafunzo user list --after user-049, or all: mafunzo user list --all\n")
    limited = shell.run("user", "list", "--json", "--limit", "2")
    assert (names(limited.stdout), limited.stderr) == (["user-000", "user-001"], "")


def test_what_narrows_a_list_narrows_its_next_page_too(shell: Shell, workspace: Workspace) -> None:
    add_jobs(workspace)
    *_, more = shell("model", "list", "--name", "tuned-0", "--archived", "--limit", "3").splitlines()
    assert more == (
        "There are more: mafunzo model list --name tuned-0 --archived --before tuned-0:8, or all: "
        "mafunzo model list --name tuned-0 --archived --all"
    )


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("nothing:1", "No model 'nothing:1' in workspace."),
        ("tuned-0", "'tuned-0' doesn't name a version, expected NAME:VERSION as the list shows them."),
    ],
)
def test_a_page_after_what_is_not_in_the_list_is_refused(
    before: str, message: str, shell: Shell, workspace: Workspace
) -> None:
    assert shell("model", "list", "--before", before, code=2).startswith(f"error: {message}")
