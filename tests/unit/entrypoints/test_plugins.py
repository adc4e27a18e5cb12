"""Tests of `mafunzo.entrypoints.plugins`: a way in that is absent plugs nothing in."""

from pathlib import Path

import pytest

from mafunzo.entities import reference
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entrypoints import plugins
from mafunzo.entrypoints.terminal import server_address
from mafunzo.tracking import run

HERE = ServerAddress(7, 1.0, 8080, "2026-01-01T00:00:00+00:00", https_port=8443)


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process into which nothing is plugged yet."""
    monkeypatch.setattr(reference, "_syntaxes", [])
    monkeypatch.setattr(run, "_sources", [])
    monkeypatch.setattr(server_address, "_ways_in", [])


def test_what_is_installed_is_plugged_in_once(unplugged: None, tmp_path: Path) -> None:
    pytest.importorskip(plugins.AZURE)
    pytest.importorskip(plugins.MLFLOW)
    plugins.plug_in()
    plugins.plug_in()
    facts = server_address.address_facts(HERE, tmp_path)
    assert (facts["azure"], facts["mlflow"]) == ("https://127.0.0.1:8443", "http://127.0.0.1:8080/mlflow/")
    assert [line.split("  ")[0] for line in server_address.address_lines(HERE, tmp_path)] == [
        "OpenAI's dialect",
        "The Azure SDK",
        "MLflow",
        "Process",
    ]
    named = reference.parse_reference("azureml:chat:2")
    assert isinstance(named, reference.AssetReference) and (named.name, named.version) == ("chat", "2")


def test_what_is_absent_is_not(unplugged: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    plugins.plug_in()
    assert set(server_address.address_facts(HERE, tmp_path)) == {"listen", "openai", "pid", "home"}
    assert list(run.logged_folders(tmp_path, "run")) == []
