"""Fetching from a hub: the real client against a small hub on loopback, and against none."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from mafunzo.compute.components.import_model import consent_of
from mafunzo.compute.components.source import Access, Fetched, fetch
from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.model.folder import weights_sha256
from mafunzo.entities.model_card import HubSource
from mafunzo.errors import MafunzoError, Unreachable, UnsafeModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's API that a snapshot needs; `models` maps org/name to a folder."""

    models: dict[str, Path]

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def log_message(self, *parts: object) -> None:
        pass

    def _answer(self, has_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if is_api else parts[:2])
        if repo == "org/gated":
            self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Ask for access."}, has_body)
        elif repo not in self.models:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, has_body)
        elif is_api and "tree" in parts:
            files = self._files(repo)
            body = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
            self._send(200, json.dumps(body).encode(), {}, has_body)
        elif is_api:
            body = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in self._files(repo)]}
            self._send(200, json.dumps(body).encode(), {}, has_body)
        else:
            content = (self.models[repo] / parts[-1]).read_bytes()
            self._send(200, content, {"ETag": f'"{parts[-1]}"', "X-Repo-Commit": COMMIT}, has_body)

    def _files(self, repo: str) -> list[Path]:
        return sorted(self.models[repo].iterdir())

    def _send(self, status: int, body: bytes, headers: dict[str, str], has_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    make("tiny-llama", 5, root / "good")
    (root / "good" / "training_args.bin").write_bytes(b"a pickle")
    (root / "good" / "modeling.py").write_text("raise SystemExit('this code must never run')\n")
    make("tiny-llama", 5, root / "pickled")
    (root / "pickled" / "model.safetensors").rename(root / "pickled" / "pytorch_model.bin")
    return {"org/good": root / "good", "org/pickled": root / "pickled"}


@pytest.fixture
def hub(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    handler = type("OneHub", (Hub,), {"models": models})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def get(repo: str, tmp_path: Path, **access: bool) -> Fetched:
    return fetch(HubSource(kind="hub", repo=repo), Access(tmp_path / "cache", **access))


def failure(kind: type[MafunzoError], repo: str, tmp_path: Path) -> str:
    with pytest.raises(kind) as excinfo:
        get(repo, tmp_path)
    assert type(excinfo.value) is kind
    return str(excinfo.value)


@pytest.mark.usefixtures("hub")
def test_a_model_is_fetched_with_its_commit_and_without_pickles_and_code(
    models: dict[str, Path], tmp_path: Path
) -> None:
    snapshot = get("org/good", tmp_path)
    assert weights_sha256(snapshot.folder) == weights_sha256(models["org/good"])
    assert snapshot.revision == COMMIT
    assert (snapshot.folder / "chat_template.jinja").exists()
    assert not list(snapshot.folder.glob("*.bin")) + list(snapshot.folder.glob("*.py"))


@pytest.mark.usefixtures("hub")
def test_code_is_fetched_only_if_it_is_trusted(tmp_path: Path) -> None:
    assert (get("org/good", tmp_path, trust_remote_code=True).folder / "modeling.py").exists()


@pytest.mark.usefixtures("hub")
def test_a_repository_with_pickles_only_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    assert "pytorch_model.bin" in failure(UnsafeModel, "org/pickled", tmp_path)
    assert not list((tmp_path / "hub").rglob("*.bin"))


@pytest.mark.usefixtures("hub")
def test_an_unknown_repository_says_that_and_names_the_mirror(tmp_path: Path) -> None:
    text = failure(Unreachable, "org/unknown", tmp_path)
    assert "has no org/unknown at revision main" in text
    assert "mafunzo model mirror org/unknown FOLDER" in text


@pytest.mark.usefixtures("hub")
def test_a_gated_repository_asks_for_consent_and_a_token(tmp_path: Path) -> None:
    told = failure(Unreachable, "org/gated", tmp_path)
    assert "Accept its licence at https://huggingface.co/org/gated, then set HF_TOKEN" in told


def test_a_gated_model_without_a_token_names_its_licence_before_anything_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    source = HubSource(kind="hub", repo="org/gated")
    card = {"licence": "llama3.2", "licence_url": "https://example.org/licence"}
    with pytest.raises(Unreachable) as refused:
        fetch(source, Access(tmp_path, offline=True, consent=consent_of(source, card)))
    assert str(refused.value).startswith(
        "org/gated asks for consent, and there is no HF_TOKEN. Accept its licence (llama3.2 https://example.org/licence) at "
        "https://huggingface.co/org/gated, then set HF_TOKEN"
    )


def test_what_was_fetched_once_is_there_when_the_hub_is_gone(hub: http.server.HTTPServer, tmp_path: Path) -> None:
    first = get("org/good", tmp_path)
    hub.shutdown()
    hub.server_close()
    assert get("org/good", tmp_path) == first
    assert get("org/good", tmp_path, offline=True) == first


def test_a_hub_that_does_not_answer_says_both_ways(hub: http.server.HTTPServer, tmp_path: Path) -> None:
    hub.shutdown()
    hub.server_close()
    text = failure(Unreachable, "org/good", tmp_path)
    assert "Connect this machine to the network" in text
    assert "mafunzo model mirror org/good FOLDER" in text
