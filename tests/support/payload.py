"""What the fuzzer fills requests with: names, queries, bodies, keys and bytes, each more or less wrong."""

import copy
import json
import random
import string
from typing import Any
from urllib.parse import quote

BLOBS = "/mafunzo.blob.local"
WORDS = ["1", "latest", "workspaceblobstore", "azureml-blobstore", "tiny-llama", "chat_completion_pipeline", "local"]
ODD_VALUES = [
    "", ".", "..", "../../x", "a/b", "a\\b", "%2e%2e%2f", "\0", "\n", "é", "🦁", "\u202e", "²", "٣", "'; DROP TABLE asset; --", "{}",
    "${{parent}}", "$", "-1", "0", "1e400", "NaN", "9" * 40, "9" * 5000, "a" * 300, "a" * 5000, "null", "CON", "a:b", "@", "#", "?",
    "azureml:x:1", "azureml://jobs/x/outputs/y", "file:///etc/passwd",
]  # fmt: skip
ODD_LEAVES: list[Any] = [*ODD_VALUES, None, True, -1, 0, 1.5, 1e308, 10**30, [], {}, [[]], [None], {"": None}, "\ud800"]
ODD_LEAVES += ["a \udc00 b", {"\ud83d": 1}, [{}], [{"function": {"name": ["x"], "arguments": 1}}]]
ODD_LEAVES += [json.loads("[" * depth + "]" * depth) for depth in (20, 101, 300)]
QUERIES = [
    "api-version", "$top", "$skip", "$skiptoken", "$orderBy", "orderBy", "listViewType", "resource", "comp", "restype", "prefix",
    "marker", "maxresults", "delimiter", "include", "blockid", "blocklisttype", "timeout", "hash", "hashVersion", "jobType", "tag",
]  # fmt: skip
QUERY_VALUES = [
    "2023-04-01", "1", "5", "list", "container", "block", "blocklist", "metadata", "properties", "lease", "all", "committed",
    "uncommitted", "MQ==", "MDAwMQ==", "/", "createdTime desc", "createdTime asc", "All", "ArchivedOnly", "https://management/",
]  # fmt: skip
JOB: dict[str, Any] = {
    "properties": {
        "jobType": "Pipeline",
        "displayName": "fuzz",
        "experimentName": "fuzz",
        "computeId": "local",
        "inputs": {
            "x": {"jobInputType": "literal", "value": "1"},
            "f": {"jobInputType": "uri_file", "uri": "azureml:fuzz:1"},
        },
        "outputs": {"o": {"jobOutputType": "mlflow_model", "mode": "ReadWriteMount"}},
        "jobs": {
            "step": {
                "type": "pipeline",
                "componentId": "azureml://registries/azureml/components/chat_completion_pipeline/versions/1",
                "inputs": {"learning_rate": {"job_input_type": "literal", "value": "${{parent.inputs.x}}"}},
                "outputs": {"m": {"value": "${{parent.outputs.o}}", "type": "literal"}},
            }
        },
        "settings": {"force_rerun": True, "default_compute": "local", "continue_on_step_failure": False},
        "tags": {"a": "b"},
        "properties": {},
    }
}
COMMAND: dict[str, Any] = {
    "properties": {
        "jobType": "Command",
        "command": "echo ${{inputs.x}}",
        "codeId": "/subscriptions/x/codes/fuzz/versions/1",
        "environmentId": "azureml:fuzz:1",
        "computeId": "/subscriptions/x/computes/fuzz",
        "inputs": {"x": {"jobInputType": "literal", "value": "1"}},
        "outputs": {"o": {"jobOutputType": "uri_folder"}},
        "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 2},
        "resources": {"instanceCount": 1, "instanceType": "local"},
        "environmentVariables": {"A": "b"},
        "limits": {"jobLimitsType": "Command", "timeout": "PT5M"},
    }
}
BODIES: dict[str, list[dict[str, Any]]] = {
    "computes": [
        {
            "location": "local",
            "properties": {
                "computeType": "AmlCompute",
                "properties": {
                    "vmSize": "local",
                    "vmPriority": "Dedicated",
                    "scaleSettings": {"maxNodeCount": 2, "minNodeCount": 0, "nodeIdleTimeBeforeScaleDown": "PT2M"},
                },
            },
        }
    ],
    "jobs": [JOB, COMMAND],
    "versions": [
        {
            "properties": {
                "modelType": "mlflow_model",
                "modelUri": "azureml://jobs/fuzz/outputs/o",
                "flavors": {},
                "tags": {},
            }
        },
        {"properties": {"dataType": "uri_file", "dataUri": "azureml://datastores/workspaceblobstore/paths/right"}},
        {"properties": {"image": "x", "condaFile": "name: x\ndependencies:\n- pip:\n  - x\n", "osType": "Linux"}},
        {
            "properties": {
                "codeUri": "https://127.0.0.1/mafunzo.blob.local/azureml-blobstore/right",
                "isAnonymous": True,
            }
        },
        {
            "properties": {
                "componentSpec": {
                    "name": "fuzz",
                    "version": "1",
                    "type": "command",
                    "command": "echo ${{inputs.x}}",
                    "inputs": {"x": {"type": "integer", "default": "1", "min": 0, "max": 5, "optional": True}},
                    "outputs": {"o": {"type": "uri_folder"}},
                    "environment": "azureml:fuzz:1",
                    "code": "azureml:fuzz:1",
                }
            }
        },
    ],
    "onlineEndpoints": [
        {
            "location": "local",
            "identity": {"type": "SystemAssigned"},
            "properties": {"authMode": "Key", "traffic": {"a": 100}},
        }
    ],
    "deployments": [
        {
            "location": "local",
            "sku": {"name": "Default", "capacity": 1},
            "properties": {
                "model": "azureml:fuzz:1",
                "instanceType": "local",
                "endpointComputeType": "Managed",
                "livenessProbe": {"initialDelay": "PT10M", "period": "PT10S", "failureThreshold": 3},
                "requestSettings": {"requestTimeout": "PT1M30S", "maxConcurrentRequestsPerInstance": 1},
            },
        }
    ],
    "": [
        {"expirableSecret": False, "expireAfterHours": 1},
        {"runId": "fuzz", "values": ["azureml://jobs/fuzz/outputs/o"]},
        {"keyType": "Primary", "keyValue": None},
        {"containerType": "StorageInitializer", "tail": 10},
        {
            "input_data": {
                "input_string": [[{"role": "user", "content": "Habari!"}]],
                "parameters": {"max_new_tokens": 5},
            }
        },
        {"model": "fuzz", "messages": [{"role": "user", "content": "Habari!"}], "max_tokens": 5, "stream": True},
        {"pendingUploadType": "TemporaryBlobReference"},
    ],
}
CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "fuzz", "arguments": '{"a": "b"}'}}
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "fuzz",
        "description": "fuzz",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        "strict": True,
    },
}
DIALECT: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {
            "model": "fuzz",
            "messages": [
                {"role": "system", "content": "fuzz"},
                {"role": "user", "content": [{"type": "text", "text": "Habari!"}], "name": "fuzz"},
                {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "fuzz"},
                {"role": "assistant", "content": "fuzz"},
                {"role": "user", "content": "Asante."},
            ],
            "max_tokens": 1,
        },
        {
            "model": "fuzz",
            "messages": [{"role": "user", "content": "Habari!"}],
            "tools": [FUNCTION],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 1,
        },
        {
            "model": "fuzz",
            "messages": [{"role": "user", "content": "Habari!"}],
            "temperature": 0.5,
            "top_p": 0.5,
            "top_k": 5,
            "seed": 1,
            "stop": ["a", "b"],
            "logprobs": True,
            "top_logprobs": 2,
            "response_format": {"type": "text"},
            "max_completion_tokens": 1,
        },
        {
            "model": "fuzz",
            "messages": [{"role": "user", "content": "Habari!"}],
            "n": 2,
            "min_p": 0.1,
            "presence_penalty": 1,
            "frequency_penalty": 1,
            "repetition_penalty": 1.1,
            "logit_bias": {"5": 1},
            "chat_template_kwargs": {},
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "fuzz", "schema": FUNCTION["function"]["parameters"], "strict": True},
            },
            "max_tokens": 1,
        },
        {
            "model": "fuzz",
            "messages": [{"role": "user", "content": "Habari!"}],
            "tools": [FUNCTION],
            "tool_choice": {"type": "function", "function": {"name": "fuzz"}},
            "max_tokens": 1,
        },
    ],
    "/v1/completions": [
        {"model": "fuzz", "prompt": "Habari!", "max_tokens": 1, "logprobs": 1, "echo": True},
        {"model": "fuzz", "prompt": [[5, 6], [7]], "max_tokens": 1, "stop": "a", "seed": 1},
        {
            "model": "fuzz",
            "prompt": "Habari!",
            "max_tokens": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ],
}
"""Requests in OpenAI's dialect, by their route."""
BLOCK_LIST = (
    b"<?xml version='1.0' encoding='utf-8'?><BlockList><Latest>MQ==</Latest><Committed>MDAwMQ==</Committed></BlockList>"
)


def value_of(rng: random.Random, part: str, name: str) -> str:
    """Return what stands for a part of a route in an address; what is new is called after `name`."""
    if part == "container":
        return rng.choice([name, "azureml-blobstore", "azureml-blobstore"])
    if part.startswith("path") or part == "name:path":
        return quote(f"{name}/{rng.choice(ODD_VALUES)}", safe=rng.choice(["/", "", "/%"]))
    chosen = rng.choice([f"{name}-{rng.randrange(4)}", rng.choice(WORDS), f"{name}{rng.choice(ODD_VALUES)}"])
    return quote(chosen, safe=rng.choice(["", "/", "/%.:"]))


def query(rng: random.Random) -> str:
    """Return a query with fields that some route reads."""
    values = rng.choices([*QUERY_VALUES, *ODD_VALUES], k=rng.choice([0, 1, 1, 2, 3]))
    return "&".join(f"{rng.choice(QUERIES)}={quote(value, safe=rng.choice(['', '/%=']))}" for value in values)


def body(rng: random.Random, template: str, name: str) -> bytes:
    """Return a body that the route may take: as it should be, with other leaves, or no object at all."""
    if template.startswith(BLOBS):
        return rng.choice([b"", b"fuzz", BLOCK_LIST, flip(rng, BLOCK_LIST), rng.randbytes(5000), b"<!DOCTYPE x><x/>"])
    noun = next((noun for noun in reversed(template.split("/")) if noun in BODIES), "")
    own = DIALECT.get(template, BODIES[noun])
    found = _broken(rng, rng.choice([*own, *own, *BODIES[""]]))
    text = json.dumps(rng.choice(ODD_LEAVES) if rng.random() < 0.1 else found).replace("fuzz", name)
    return rng.choice([text, text, text, text[: len(text) // 2], "[" * 100_000, '{"a":' * 5000]).encode(
        "utf-8", "surrogatepass"
    )


def dialect_body(rng: random.Random, route: str) -> bytes:
    """Return a request in OpenAI's dialect, of which some values are others."""
    return json.dumps(_broken(rng, rng.choice(DIALECT[route]))).encode()


def wrong_token(rng: random.Random, token: str) -> str:
    """Return a token that opens nothing."""
    head, claims, signature = token.split(".")
    return rng.choice(
        [token[:-2], f"{head}.{claims}.", f"{head}.e30.{signature}", f"e30.{claims}.{signature}", "x", "é", "..", ""]
    )


def wrong_sas(rng: random.Random, sas: str) -> str:
    """Return the signature of an address that opens nothing."""
    return rng.choice(
        [sas.replace("sp=rcwdl", "sp=rcwdlx"), sas[:-4], sas.replace("sr=c", "sr=b"), f"{sas}&sip=1.2.3.4", "sig=é", ""]
    )


def blob_headers(rng: random.Random, method: str) -> dict[str, str]:
    """Return headers that a request for a blob may have."""
    found = {"x-ms-blob-type": rng.choice(["BlockBlob", "BlockBlob", "BlockBlob", "AppendBlob", "x"])}
    odd = rng.choice(
        [*ODD_VALUES, "bytes=0-", "bytes=5-2", "bytes=-5", '"0x1"', "*", "Wed, 01 Jan 2020 00:00:00 GMT", "true"]
    )
    odd = "".join(character for character in odd if character.isprintable() and character.isascii())
    for name in rng.sample(
        [
            "range", "x-ms-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "content-md5",
            "x-ms-meta-a", "x-ms-meta-é", "x-ms-meta-", "x-ms-blob-content-type", "x-ms-blob-content-md5", "x-ms-lease-id",
            "x-ms-client-request-id", "x-ms-range-get-content-md5", "x-ms-date", "x-ms-copy-source", "authorization", "expect",
        ],
        k=rng.choice([0, 0, 1, 2]),
    ):  # fmt: skip
        found[name] = (
            rng.choice([odd, "SharedKey mafunzo:x", "100-continue"]) if name in ("authorization", "expect") else odd
        )
    return found if method != "GET" or rng.random() < 0.5 else {}


def flip(rng: random.Random, whole: bytes) -> bytes:
    """Return bytes of which some are others, missing or there twice."""
    found = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(4):
            case 0 if at < len(found):
                found[at] = rng.randrange(256)
            case 1:
                del found[at : at + rng.randrange(1, 20)]
            case 2:
                found[at:at] = rng.choice([b"\r\n", b"\n", b"\0", b":", b" ", b"\r\n\r\n", rng.randbytes(3)])
            case _:
                found[at:at] = found[at : at + 30]
    return bytes(found)


def chunks(rng: random.Random, whole: bytes) -> bytes:
    """Return a body in chunks, which add up or don't."""
    size = rng.choice(
        [
            b"%x" % len(whole),
            b"%X" % len(whole),
            b"5",
            b"-1",
            b"fffffffffffffffff",
            b"",
            b"zz",
            b"0x5",
            b"5;a=b",
            b"1" * 99,
        ]
    )
    end = rng.choice(
        [b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0\r\n", b"", b"\r\n", rng.randbytes(20), b"5\r\nab"]
    )
    return size + rng.choice([b"\r\n", b"\r\n", b"\n", b""]) + whole + rng.choice([b"\r\n", b"\r\n", b""]) + end


def odd_headers(rng: random.Random) -> str:
    """Return lines that no client sends."""
    return rng.choice(
        [
            "Host: evil\r\n", "Host: \r\n", " folded: line\r\n", "No colon\r\n", ": no name\r\n", "A\0: b\r\n", "A: \0\r\n", "A : b\r\n",
            "É: ü\r\n", "Upgrade: websocket\r\nConnection: Upgrade\r\n", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n",
            "Transfer-Encoding: gzip\r\n", "Transfer-Encoding: chunked, chunked\r\n", "Expect: 100-continue\r\n", "Expect: x\r\n",
            "Range: bytes=0-0,1-1,2-2\r\n", "Authorization: Basic " + "A" * 9000 + "\r\n", "A: b\r\n" * 500, "X: " + "y" * 100_000 + "\r\n",
            "Content-Type: multipart/form-data\r\n", "Content-Encoding: gzip\r\n", "Cookie: " + "a=b; " * 999 + "\r\n",
            "X-IDENTITY-HEADER: x\r\n", "azureml-model-deployment: \xff\r\n", "Accept: " + "*/*," * 999 + "\r\n", "\r\n\r\n", "\n",
        ]
    )  # fmt: skip


def noise(rng: random.Random) -> bytes:
    """Return what is nobody's protocol, or another one."""
    return rng.choice(
        [
            b"", b"\r\n" * 50, b"\0" * 300, rng.randbytes(rng.randrange(1, 3000)), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\r\n",
            b"SSH-2.0-x\r\n", b"\x05\x01\x00", b"HTTP/1.1 200 OK\r\n\r\n", string.printable.encode() * 20, b"GET " + b"/" * 99_999,
            b"*1\r\n$4\r\nPING\r\n", b"<?xml version='1.0'?><x/>", b'{"a": 1}\n', b"GET / HTTP/1.1" + b"\r\n" * 9,
        ]
    )  # fmt: skip


def _broken(rng: random.Random, tree: Any) -> Any:
    """Return a copy of a tree with up to five other leaves."""
    other = copy.deepcopy(tree)
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        other = _with_other_leaf(rng, other)
    return other


def _with_other_leaf(rng: random.Random, tree: Any) -> Any:
    """Return a tree of which one node is something else, missing or there under another name."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        return rng.choice(ODD_LEAVES)
    if isinstance(tree, list):
        at = rng.randrange(len(tree))
        return [*tree[:at], _with_other_leaf(rng, tree[at]), *tree[at + 1 :]]
    key = rng.choice(sorted(tree))
    rest = {name: value for name, value in tree.items() if name != key}
    match rng.randrange(6):
        case 0:
            return rest
        case 1:
            return rest | {str(rng.choice(ODD_LEAVES[:20])): tree[key]}
        case _:
            return {**tree, key: _with_other_leaf(rng, tree[key])}
