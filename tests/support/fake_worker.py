"""A worker without a model: it speaks the dialect of `mafunzo.compute.inference.worker`, as `fake.json` in the model's folder says.

A token is a byte; a turn is `<role>text</s>` with 2 for `</s>`; a log-probability is a function of the token and its position.
fake.json may hold: bos (token or null), eos, stop_token_ids, turn (a format), shift (added to each log-probability),
dtype, ahead (of each token, a token that is likelier by so much), knows_ids (tokens are named by their ids on request),
load_s, exit_code (ends while loading), fails_probes, chunk_s (pause between the chunks of a stream), reply. An adapter's
folder holds such a file too, for requests that name it; with `ends_worker` the worker ends while it loads it.
Asked for "crash", it ends itself at once; what it saw of a disconnected client goes into `disconnected` beside its port file.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

DEFAULTS: dict[str, Any] = {
    "bos": 1,
    "eos": 2,
    "stop_token_ids": [2],
    "turn": "<{role}>{content}",
    "shift": 0.0,
    "load_s": 0.0,
    "exit_code": None,
    "fails_probes": False,
    "chunk_s": 0.0,
    "reply": "hello from the fake",
    "engine": "",
    "dtype": "float32",
    "ahead": -1.0,
    "knows_ids": True,
}


def tokenize(settings: dict[str, Any], messages: list[dict[str, Any]], add_generation_prompt: bool) -> list[int]:
    tokens = [] if settings["bos"] is None else [settings["bos"]]
    for message in messages:
        tokens += [*settings["turn"].format(**message).encode(), settings["eos"]]
    return tokens + (list(b"<assistant>") if add_generation_prompt else [])


def logprobs(settings: dict[str, Any], tokens: list[int]) -> list[float | None]:
    return [None, *(-0.01 * (token % 50) - 0.001 * at + settings["shift"] for at, token in enumerate(tokens[1:]))]


def tops(settings: dict[str, Any], tokens: list[int], by_id: bool) -> list[dict[str, float] | None]:
    """The log-probabilities of each token and of the one that comes after it, by which it may be outdone."""
    prefix = "token_id:" if by_id else "text "
    found: list[dict[str, float] | None] = [None]
    for token, value in zip(tokens[1:], logprobs(settings, tokens)[1:], strict=True):
        assert value is not None
        found.append({f"{prefix}{token}": value, f"{prefix}{token + 1}": value + settings["ahead"]})
    return found


def greedy_ids(settings: dict[str, Any], messages: list[dict[str, Any]]) -> list[int | None]:
    tokens, prompt = tokenize(settings, messages, False), tokenize(settings, messages[:-1], True)
    return [*([None] * len(prompt)), *tokens[len(prompt) :]]


def reference(settings: dict[str, Any] | None = None, rows: int = 2) -> dict[str, Any]:
    """What an evaluation of the fake would have written."""
    good = DEFAULTS | (settings or {})
    found = []
    for number in range(rows):
        messages = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "answer"}]
        tokens = tokenize(good, messages, False)
        found.append(
            {
                "messages": messages,
                "token_ids": tokens,
                "prompt_token_ids": tokenize(good, messages[:-1], True),
                "logprobs": logprobs(good, tokens),
                "greedy_ids": greedy_ids(good, messages),
            }
        )
    return {
        "tolerance": 0.01,
        "dtype": "float32",
        "lower_precision_tolerances": {"bfloat16": [1.5, 0.15]},
        "stop_token_ids": good["stop_token_ids"],
        "rows": found,
    }


def info(settings: dict[str, Any]) -> dict[str, Any]:
    return {"stop_token_ids": settings["stop_token_ids"], "engine": "fake", "dtype": settings["dtype"]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    settings: dict[str, Any]
    name: str
    folder: Path
    ready_at: float
    bearer: str | None
    adapters: dict[str, tuple[str, dict[str, Any]]]

    def log_message(self, *_: Any) -> None:
        pass

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if self.bearer is not None and self.headers["Authorization"] != self.bearer:
            self.close_connection = True
            self._send(401, {"error": {"message": "the token is missing or wrong"}})
            return False
        return True

    def do_GET(self) -> None:
        if self.path == "/health":
            if self.settings["fails_probes"] or (self.folder / "be_silent").exists():
                self.close_connection = True
                return
            self._send(200 if time.monotonic() > self.ready_at else 503, {})
        elif self.path.partition("?")[0] == "/info":
            query = parse_qs(self.path.partition("?")[2])
            if self._take_settings(query.get("model", [""])[0]):
                self._send(200, info(self.settings))
        else:
            self._send(200, {"data": [{"id": name} for name in (self.name, *self.adapters)]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/load_lora_adapter":
            self._load_adapter(body["lora_name"], body["lora_path"])
            return
        if self.path == "/v1/unload_lora_adapter":
            is_there = self.adapters.pop(body["lora_name"], None) is not None
            self._send(200 if is_there else 404, {})
            return
        if not self._take_settings(body.get("model")):
            return
        if self.path == "/tokenize":
            try:
                tokens = tokenize(self.settings, body["messages"], body["add_generation_prompt"])
            except KeyError as error:
                self._send(400, {"error": {"message": f"the chat template fails: {error}"}})
                return
            self._send(200, {"tokens": tokens, "count": len(tokens)})
        elif self.path == "/v1/completions":
            self._complete(body)
        else:
            self._chat(body)

    def _load_adapter(self, name: str, path: str) -> None:
        if name in self.adapters:
            is_same = self.adapters[name][0] == path
            self._send(200 if is_same else 409, {"error": {"message": "the name is taken"}})
            return
        settings = DEFAULTS | json.loads((Path(path) / "fake.json").read_text())
        if settings.get("ends_worker"):
            os.kill(os.getpid(), signal.SIGKILL)
        self.adapters[name] = (path, settings)
        self._send(200, {})

    def _take_settings(self, model: Any) -> bool:
        """Answer as the adapter that is named; one that isn't loaded is refused."""
        if not str(model).startswith(f"{self.name}:"):
            self.settings = type(self).settings
            return True
        if model in self.adapters:
            self.settings = self.adapters[model][1]
            return True
        self._send(404, {"error": {"message": f"there is no adapter {model}"}})
        return False

    def _complete(self, body: dict[str, Any]) -> None:
        by_id = bool(body.get("return_tokens_as_token_ids"))
        if by_id and not self.settings["knows_ids"]:
            self._send(400, {"error": {"message": "return_tokens_as_token_ids isn't known"}})
            return
        tokens = body["prompt"]
        texts = [bytes([token % 256]).decode("latin-1") for token in tokens]
        found = {"token_logprobs": logprobs(self.settings, tokens), "tokens": texts}
        found["top_logprobs"] = tops(self.settings, tokens, by_id)
        self._send(200, {"object": "text_completion", "model": self.name, "choices": [{"text": "", "logprobs": found}]})

    def _chat(self, body: dict[str, Any]) -> None:
        said = body["messages"][-1]["content"]
        if said == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if said == "slow":
            time.sleep(3600)
        if said == "break off":
            self.close_connection = True
            return
        if said == "error":
            self._send(400, {"error": {"message": "no such parameter", "type": "invalid_request_error", "code": None}})
            return
        reply = {"headers": json.dumps(dict(self.headers)), "body": json.dumps(body)}.get(said, self.settings["reply"])
        if body.get("stream"):
            self._stream(body, reply)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "c1", "object": "chat.completion", "created": 1, "model": body["model"], "usage": usage}
        self._send(200, answer | {"choices": [choice]})

    def _stream(self, body: dict[str, Any], reply: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        endless = body["messages"][-1]["content"] == "endless"
        pieces = (str(number) for number in range(10**9)) if endless else reply.split(" ")
        try:
            for piece in pieces:
                choice = {"index": 0, "delta": {"role": "assistant", "content": piece + " "}, "finish_reason": None}
                event = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
                self._chunk(b"data: " + json.dumps(event | {"choices": [choice]}).encode() + b"\n\n")
                time.sleep(0.02 if endless else self.settings["chunk_s"])
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except OSError:
            (self.folder / "disconnected").touch()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "base", "name", "port", "port-file", "token-file", "cache-mb", "engine", "engine-file"):
        parser.add_argument(f"--{name}")
    given = parser.parse_args()
    file = Path(given.model) / "fake.json"
    Handler.adapters = {}
    Handler.settings = DEFAULTS | (json.loads(file.read_text()) if file.exists() else {})
    Handler.name, Handler.folder = given.name, Path(given.port_file).parent
    if given.engine_file and Handler.settings["engine"]:
        Path(given.engine_file).write_text(Handler.settings["engine"])
    Handler.ready_at = time.monotonic() + Handler.settings["load_s"]
    Handler.bearer = f"Bearer {Path(given.token_file).read_text()}" if given.token_file else None
    if Handler.settings["exit_code"] is not None:
        print("error: the fake was told to end", flush=True)
        sys.exit(Handler.settings["exit_code"])
    ThreadingHTTPServer.daemon_threads = True
    server = ThreadingHTTPServer(("127.0.0.1", int(given.port)), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    draft = Path(given.port_file).with_suffix(".draft")
    draft.write_text(str(server.server_address[1]))
    draft.replace(given.port_file)
    print("the fake listens", flush=True)
    server.serve_forever(0.02)


if __name__ == "__main__":
    main()
