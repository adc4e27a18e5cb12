"""Tests of `mafunzo.entrypoints.mlflow.operation`: the list of MLflow's requests, against what this MLflow has."""

import re

import pytest

from mafunzo.entities.user import Role
from mafunzo.entrypoints.mlflow.operation import CHANGE, DELETE, READ, address_of, is_plain, role_of

OFF = (
    "artifacts/presigned",
    "demo/",
    "gateway",
    "genai/",
    "get-online-trace-details",
    "issues/invoke",
    "jobs/",
    "mlflow-artifacts/presigned",
    "prompt-optimization/",
    "runs/create-promptlab-run",
    "scorer/",
    "scorers/online-config",
    "ui-telemetry",
    "upload-artifact",
    "webhooks",
    "workspaces",
)
"""What of MLflow isn't answered here, unless it is on the list."""


def routes_of_mlflow() -> set[tuple[str, str]]:
    """Return the method and path of all that MLflow answers, with a name in place of each parameter."""
    from mlflow.server import app

    return {
        (method, re.sub(r"<[^>]+>", "name", str(rule)).removeprefix("/"))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if re.match(r"/(ajax-)?api/[23]\.0/?", str(rule)) or "api" not in str(rule)
    }


def test_all_that_mlflow_answers_is_on_the_list_or_left_out_on_purpose() -> None:
    unknown = {
        (method, path)
        for method, path in routes_of_mlflow()
        if role_of(method, path) is None and not re.sub(r"^(ajax-)?api/[23]\.0/?(mlflow/)?", "", path).startswith(OFF)
    }
    assert unknown == set()


def test_nothing_is_on_the_list_twice() -> None:
    operations = [*READ, *CHANGE, *DELETE]
    assert len(operations) == len(set(operations))


@pytest.mark.parametrize("path", ["a//b", "a/./b", "../a", "a/..", "/a", "a//", "a\\b", "a%2fb"])
def test_a_path_that_could_be_read_in_two_ways_is_none(path: str) -> None:
    assert not is_plain(path)
    assert role_of("GET", f"build/{path}") is None


def test_a_folder_of_files_may_end_with_a_slash_and_an_operation_may_not() -> None:
    assert role_of("DELETE", "api/2.0/mlflow-artifacts/artifacts/2/run/artifacts/") is Role.OWNER
    assert role_of("POST", "api/2.0/mlflow/experiments/create/") is None
    assert is_plain("a/") and not is_plain("/")


def test_an_address_has_no_query_and_no_fragment() -> None:
    assert address_of("a/b?c#d e%") == "a/b%3Fc%23d%20e%25"
