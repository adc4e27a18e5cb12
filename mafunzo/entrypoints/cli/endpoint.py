"""`mafunzo deploy` and `mafunzo endpoint`."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import mafunzo
from mafunzo.entities.rate_limit import EVERYBODY, RateLimit
from mafunzo.entities.verification import last_proof
from mafunzo.entrypoints.cli import adapter
from mafunzo.entrypoints.cli.proof import print_proofs, proof_facts, quality_words
from mafunzo.entrypoints.cli.scale import BOUNDS, IDLE_MINUTES, INSTANCES, scale_of
from mafunzo.entrypoints.terminal.output import (
    ALL,
    AS_JSON,
    LIMIT,
    moment_text,
    one_page,
    print_entity,
    print_facts,
    print_json,
    print_list,
    print_more,
    print_result,
)
from mafunzo.errors import InvalidFile, InvalidParameter
from mafunzo.tracking.printable import printable

if TYPE_CHECKING:
    from mafunzo.control.workspace.endpoints import EndpointHandle
    from mafunzo.entities.endpoint import Deployment, Endpoint
    from mafunzo.entities.mirror import MirrorReport

app = typer.Typer(help="Endpoints that answer with a registered model.", no_args_is_help=True)
app.add_typer(adapter.app, name="adapter")
NAME = typer.Argument(help="The endpoint's name.")
DEPLOYMENT = typer.Option(None, help="One deployment; default as the traffic says, or all.")


def deploy(
    model: str = typer.Argument(
        help="A registered model, or one of the catalogue, which is fetched first: name or name:version."
    ),
    endpoint: str = typer.Option(..., help="The endpoint; made if it isn't there."),
    deployment: str = typer.Option("default", help="The deployment's name."),
    traffic: int = typer.Option(
        None, help="Its percent of the requests; default 100 for the first, else 0. The first takes 100 or 0."
    ),
    timeout: float = typer.Option(600.0, help="How many seconds it may take to become healthy."),
    request_timeout: float = typer.Option(
        None,
        help="How many seconds a whole answer may take, its time in the queue included, and a stream may pause; default 90.",
    ),
    instances: int = INSTANCES,
    scale: str = BOUNDS,
    idle_minutes: float = IDLE_MINUTES,
    ttl: str = typer.Option(
        None, help="For how long: 30m, 4h, 2d. Then it is deleted, unless `mafunzo endpoint renew` was called."
    ),
    log_requests: bool = typer.Option(
        False,
        "--log-requests",
        help="Keep prompts and answers in the home, by the answers' ids; default: they are kept nowhere.",
    ),
    engine: str = typer.Option(
        "auto",
        help="What computes it: torch; openvino, faster on x86-64; vllm, faster on a GPU; auto: openvino or vllm where it is "
        "installed and can.",
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Serve a model. One that was tuned here goes live once it has proven that it answers as it did in evaluation."""
    options: dict[str, Any] = {"timeout_s": timeout}
    options |= {} if request_timeout is None else {"request_timeout_s": request_timeout}
    bounds = scale_of(instances, scale, idle_minutes)
    options |= {} if bounds is None else {"scale": bounds}
    options |= {} if ttl is None else {"ttl": ttl}
    options |= {"logs_requests": True} if log_requests else {}
    options |= {} if engine == "auto" else {"engine": engine}
    handle = mafunzo.Workspace().deploy(model, endpoint=endpoint, deployment=deployment, traffic=traffic, **options)
    record = next(d for d in handle.deployments if d.name == deployment)
    print_result(
        {"endpoint": handle.endpoint, "deployment": _deployment_facts(record), "url": handle.url},
        as_json,
        f"{endpoint}/{deployment} serves {record.model} at {handle.url} (model name: {endpoint})",
        *_proof_lines(record.verification),
        *_quality_lines(record),
        *([f"It books {record.supervision.memory}."] if record.supervision.memory else []),
        *([f"It computes with {record.supervision.engine}."] if record.supervision.engine else []),
        *([f"It {_end_words(record)}. Renew it: mafunzo endpoint renew {endpoint}"] if record.expires_at else []),
        f"Its key: mafunzo endpoint keys {endpoint}. Talk to it: mafunzo endpoint chat {endpoint}",
    )


@app.command("list")
def list_endpoints(
    limit: int = LIMIT,
    after: str = typer.Option(None, help="The name of an endpoint: list those after it."),
    everything: bool = ALL,
    as_json: bool = AS_JSON,
) -> None:
    """List endpoints by name, with their deployments: since when each is there, and when its lease ends."""
    workspace = mafunzo.Workspace()
    endpoints, has_more = one_page(lambda most: workspace.endpoints.list(most, after), limit, everything)
    deployments = workspace.deployments.of(endpoint.name for endpoint in endpoints)
    rows = [
        row
        for endpoint in endpoints
        for row in _rows(endpoint, [d for d in deployments if d.endpoint == endpoint.name])
    ]
    columns = ("endpoint", "deployment", "model", "status", "traffic", "since", "ends")
    facts = [_endpoint_facts(endpoint, deployments) for endpoint in endpoints]
    print_list(facts, as_json, columns, rows, "No endpoints. Make one: mafunzo deploy")
    print_more(has_more, "mafunzo endpoint list", f"--after {endpoints[-1].name}" if endpoints else "", limit, as_json)


@app.command()
def show(name: str = NAME, as_json: bool = AS_JSON) -> None:
    """Show an endpoint, its deployments, and the proof that each answers as in evaluation."""
    handle = mafunzo.Workspace().endpoints.get(name)
    if as_json:
        facts = {"endpoint": handle.endpoint, "used_today": handle.used_today()}
        facts |= {"deployments": [_deployment_facts(d) for d in handle.deployments]}
        print_json({**facts, "proofs": [proof_facts(proof) for proof in handle.proofs()]})
        return
    print_facts({"name": name, "created": handle.endpoint.created_at, "traffic": handle.endpoint.traffic_percent})
    print_facts({"mirror": handle.endpoint.mirror_percent})
    print_facts({f"limit of {caller}": str(limit) for caller, limit in handle.endpoint.rate_limits.items()})
    print_facts(_used_today(handle))
    for d in handle.deployments:
        error = (d.error or {}).get("message")
        print_facts(
            {
                "deployment": d.name,
                "model": d.model,
                "status": d.status,
                "port": d.port,
                "request timeout": f"{d.request_timeout_s:g} s",
                "instances": str(d.scale),
                "since": d.created_at,
                "ends": d.expires_at,
                "request log": "prompts and answers are kept" if d.logs_requests else None,
                "memory": d.supervision.memory or None,
                "engine": d.supervision.engine or None,
                "update": _update_words(d),
                "adapters": {name: one.model for name, one in d.adapters.items()} or None,
                "error": error,
            }
        )
        if d.replicas or not d.scale.is_fixed:
            print_facts({each.worker: _worker_words(each) for each in d.workers})
    if proofs := handle.proofs():
        print_proofs(proofs, has_times=True)


@app.command()
def invoke(
    name: str = NAME,
    request_file: Path = typer.Option(..., help="OpenAI's chat request as JSON; - for standard input."),
    deployment: str = DEPLOYMENT,
) -> None:
    """Send one request as it is, and print the answer as it is."""
    print_json(mafunzo.Workspace().endpoints.get(name).invoke(_read_json(request_file), deployment))


@app.command()
def chat(
    name: str = NAME,
    message: str = typer.Option(None, "--message", "-m", help="Ask this one thing; without it, a conversation."),
    system: str = typer.Option(None, help="A system message."),
    temperature: float = typer.Option(0.0, help="0 always takes the likeliest token."),
    max_tokens: int = typer.Option(256, help="The longest answer."),
    deployment: str = DEPLOYMENT,
) -> None:
    """Talk to an endpoint; the answer appears as it is written."""
    handle = mafunzo.Workspace().endpoints.get(name)
    messages = [{"role": "system", "content": system}] if system else []
    while True:
        question = message if message is not None else _ask()
        if not question:
            return
        messages.append({"role": "user", "content": question})
        answer = ""
        for piece in handle.stream(messages, deployment, temperature=temperature, max_tokens=max_tokens):
            answer += piece
            sys.stdout.write(printable(piece) if sys.stdout.isatty() else piece)
            sys.stdout.flush()
        print()
        messages.append({"role": "assistant", "content": answer})
        if message is not None:
            return


@app.command()
def keys(
    name: str | None = typer.Argument(
        None, help="The endpoint's name; without it, the one key that opens all of them."
    ),
    regenerate: str = typer.Option(
        None, help="primary or secondary: replace that one; all, without a name: that of all."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Print an endpoint's keys, or the key that opens all endpoints."""
    if name is None:
        _print_key_of_all(regenerate, as_json)
        return
    handle = mafunzo.Workspace().endpoints.get(name)
    if regenerate is not None:
        handle.regenerate_key(regenerate)
    primary, secondary = handle.keys
    facts = {"primary": primary, "secondary": secondary, "url": handle.url}
    print_entity(facts, as_json, facts)


@app.command()
def traffic(
    name: str = NAME,
    shares: list[str] = typer.Argument(help="deployment=percent, adding up to 100."),
    as_json: bool = AS_JSON,
) -> None:
    """Split the requests over the deployments."""
    percents = _percents(shares)
    handle = mafunzo.Workspace().endpoints.get(name)
    handle.set_traffic(percents)
    percent = handle.endpoint.traffic_percent
    print_entity({"endpoint": name, "traffic_percent": percent}, as_json, {"traffic": percent})


@app.command()
def update(
    name: str = NAME,
    model: str = typer.Argument(help="Another version of the model that it serves: name:version."),
    deployment: str = typer.Option("default", help="The deployment's name."),
    timeout: float = typer.Option(600.0, help="How many seconds to wait for it; it goes on after that."),
    as_json: bool = AS_JSON,
) -> None:
    """Have a deployment serve another version of its model, while it answers: new workers first, then the old ones end.

    Where a new worker fails, or doesn't answer as in evaluation, the old ones stay.
    """
    record = mafunzo.Workspace().deployments.update(name, deployment, model, timeout)
    line = f"{name}/{deployment} serves {record.model}"
    print_result(_deployment_facts(record), as_json, line, *_proof_lines(record.verification), *_quality_lines(record))


@app.command("scale")
def rescale(
    name: str = NAME,
    deployment: str = typer.Option("default", help="The deployment's name."),
    instances: int = INSTANCES,
    scale: str = BOUNDS,
    idle_minutes: float = IDLE_MINUTES,
    as_json: bool = AS_JSON,
) -> None:
    """Change how many workers a deployment has. They start, or end with their last request, after this returns."""
    bounds = scale_of(instances, scale, idle_minutes)
    if bounds is None:
        raise InvalidParameter("Say how many workers: --instances N, or --scale MIN:MAX.")
    changed = mafunzo.Workspace().deployments.rescale(name, deployment, bounds)
    facts = {"endpoint": name, "deployment": deployment, "scale": changed.scale}
    print_entity(facts, as_json, {"instances": str(changed.scale)})


@app.command("log-requests")
def log_requests(
    name: str = NAME,
    deployment: str = typer.Option("default", help="The deployment's name."),
    off: bool = typer.Option(False, "--off", help="Keep them no longer. What was kept stays until it is pruned."),
    as_json: bool = AS_JSON,
) -> None:
    """Keep the prompts and answers of a deployment in the home, by the answers' ids; `mafunzo lineage answer:ID` reads them.

    Nobody but the home's owner can. `mafunzo prune --kind requests` deletes the old ones.
    """
    changed = mafunzo.Workspace().deployments.log_requests(name, deployment, not off)
    facts = {"endpoint": name, "deployment": deployment, "logs_requests": changed.logs_requests}
    print_entity(facts, as_json, {"request log": "on" if changed.logs_requests else "off"})


@app.command()
def mirror(
    name: str = NAME,
    share: str | None = typer.Argument(
        None, help="deployment=percent: copies of so many requests go there too; 0 ends it."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Send copies of requests to another deployment as well; without a share, report how its answers compare.

    No client gets an answer of a mirror, or waits for it.
    """
    handle = mafunzo.Workspace().endpoints.get(name)
    if share is None:
        report = handle.mirror_report()
        print_entity(report, as_json, _mirror_facts(report))
        return
    deployment, _, percent = share.partition("=")
    if not _is_share(deployment, percent):
        raise InvalidParameter(f"'{share}' isn't deployment=percent.")
    handle.set_mirror({deployment: int(percent)})
    present = handle.endpoint.mirror_percent
    print_entity({"endpoint": name, "mirror_percent": present}, as_json, {"mirror": present or "none"})


@app.command()
def limit(
    name: str = NAME,
    requests_per_minute: int = typer.Option(None, help="How many requests; without it, as many as it likes."),
    tokens_per_minute: int = typer.Option(None, help="How many tokens, of prompts and answers; likewise."),
    requests_per_day: int = typer.Option(None, help="How many requests in a day of UTC (a quota); likewise."),
    tokens_per_day: int = typer.Option(None, help="How many tokens in a day of UTC; likewise."),
    caller: str = typer.Option(
        EVERYBODY,
        "--for",
        help="Whose: primary or secondary (a key), general (the key of all endpoints), user:NAME; default: each of them.",
    ),
    remove: bool = typer.Option(False, "--remove", help="Take that caller's limit away."),
    as_json: bool = AS_JSON,
) -> None:
    """Limit how much each caller may ask in a minute and in a day; without options, show the limits and what was used today.

    The rest is refused with 429. A limit takes the place of the caller's former one as a whole.
    """
    handle = mafunzo.Workspace().endpoints.get(name)
    limits = RateLimit(requests_per_minute, tokens_per_minute, requests_per_day, tokens_per_day)
    if remove and limits != RateLimit():
        raise InvalidParameter("--remove takes a limit away: leave --requests-per-..., --tokens-per-... out.")
    if remove or limits != RateLimit():
        handle.set_rate_limit(None if remove else limits, caller)
    elif caller != EVERYBODY:
        raise InvalidParameter(
            "Say how much: --requests-per-minute N, --tokens-per-minute N, the same --...-per-day, or --remove."
        )
    present = handle.endpoint.rate_limits
    facts = {one: str(limit) for one, limit in present.items()} or {"limits": "none"}
    print_entity(present, as_json, facts | _used_today(handle))


@app.command()
def renew(
    name: str = NAME,
    deployment: str = typer.Option(None, help="One deployment; default all that have a lease."),
    ttl: str = typer.Option(None, help="For how long from now on: 30m, 4h, 2d, or never to end; default as before."),
    as_json: bool = AS_JSON,
) -> None:
    """Have leases begin again from now: what has one is deleted when it ends."""
    renewed = mafunzo.Workspace().endpoints.get(name).renew(deployment, ttl)
    body = [{"deployment": one.name, "expires_at": one.expires_at} for one in renewed]
    print_result(body, as_json, *(f"{name}/{one.name} {_end_words(one)}" for one in renewed))


@app.command()
def logs(
    name: str = NAME,
    deployment: str = DEPLOYMENT,
    lines: int = typer.Option(50, help="How many, from the end."),
    as_json: bool = AS_JSON,
) -> None:
    """Print the end of the workers' logs."""
    texts = mafunzo.Workspace().endpoints.get(name).logs(deployment, lines)
    print_result(texts, as_json, *(f"--- {each}\n{text}" for each, text in texts.items()))


@app.command()
def verify(name: str = NAME, deployment: str = DEPLOYMENT, as_json: bool = AS_JSON) -> None:
    """Prove again that each worker answers as its model did in evaluation, and each adapter on it as that did.

    They go on answering meanwhile. Exit code 1: one couldn't be asked, or differs, and the table says why; what differs is
    taken out of service. A model that wasn't tuned here is unverified, which is no failure.
    """
    proofs = mafunzo.Workspace().endpoints.get(name).verify(deployment)
    if as_json:
        print_json([proof_facts(proof) for proof in proofs])
    else:
        print_proofs(proofs)
    if not all(proof.has_passed for proof in proofs):
        raise typer.Exit(1)


@app.command()
def delete(
    name: str = NAME,
    deployment: str | None = typer.Option(None, help="Delete this deployment only; its traffic goes to the others."),
    as_json: bool = AS_JSON,
) -> None:
    """Delete an endpoint, or one deployment of it; its process, port and memory are free when this returns."""
    handle = mafunzo.Workspace().endpoints.get(name)
    if deployment is None:
        handle.delete()
    else:
        handle.delete_deployment(deployment)
    what = name if deployment is None else f"{name}/{deployment}"
    print_result({"deleted": {"endpoint": name, "deployment": deployment}}, as_json, f"Deleted {what}")


def _print_key_of_all(regenerate: str | None, as_json: bool) -> None:
    from mafunzo.entrypoints.http.auth import endpoints_key, renew_endpoints_key

    if regenerate not in (None, "all"):
        raise InvalidParameter(
            f"--regenerate is {regenerate}: name the endpoint whose key that is. Without a name it can be all: the key of all."
        )
    workspace = mafunzo.Workspace()
    key = endpoints_key(workspace.home) if regenerate is None else renew_endpoints_key(workspace.home)
    print_entity({"key": key, "url": (url := f"{workspace.up().url}/v1")}, as_json, {"all endpoints": key, "url": url})


def _percents(shares: list[str]) -> dict[str, int]:
    """Return the percents by deployment; raises `InvalidParameter` with all faults of `shares`, `deployment=percent` each."""
    by_share = {share: share.partition("=")[::2] for share in shares}
    faults = [f"'{share}' isn't deployment=percent." for share, pair in by_share.items() if not _is_share(*pair)]
    names = [share.partition("=")[0] for share in shares]
    faults += [
        f"'{name}' stands {names.count(name)} times, expected once."
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    percents = {name: int(percent) for name, percent in by_share.values() if _is_share(name, percent)}
    if not faults and not any(percents.values()):
        faults.append("Nobody would answer. Give a deployment its share; `mafunzo endpoint delete` takes one away.")
    if faults:
        raise InvalidParameter("The traffic can't be set.", faults)
    return percents


def _is_share(name: str, percent: str) -> bool:
    return bool(name) and percent.isascii() and percent.isdigit()


def _mirror_facts(report: "MirrorReport") -> dict[str, Any]:
    live, mirror = report.live_latency, report.mirror_latency
    facts: dict[str, Any] = {"mirror": report.mirror, "compared": str(report.compared), "equal": str(report.equal)}
    facts |= {
        "different": f"{report.different}, of them {report.different_sampled} sampled",
        "failed": str(report.failed),
    }
    facts["characters"] = f"{report.live_characters:.1f} live, {report.mirror_characters:.1f} mirror (means)"
    if live is not None and mirror is not None:
        facts["seconds, median"] = f"{live.median_s:.3f} live, {mirror.median_s:.3f} mirror"
        facts["seconds, 95 percent"] = f"{live.p95_s:.3f} live, {mirror.p95_s:.3f} mirror"
    return facts


def _update_words(deployment: "Deployment") -> str | None:
    rollout = deployment.rollout
    if rollout is None:
        return None
    if rollout.error is None:
        return f"from {rollout.previous.model} to {rollout.target.model}, going on"
    return f"to {rollout.target.model} was taken back: {rollout.error.get('message', '')}"


def _end_words(deployment: "Deployment") -> str:
    expires_at = deployment.expires_at
    return "stays until it is deleted" if expires_at is None else f"is deleted at {moment_text(expires_at)}"


def _worker_words(worker: "Deployment") -> str:
    port = f", port {worker.port}" if worker.port else ""
    why = (worker.error or {}).get("message") or worker.supervision.reason
    return f"{worker.status}{port}{f': {why}' if why else ''}"


def _rows(endpoint: "Endpoint", deployments: "list[Deployment]") -> list[tuple[Any, ...]]:
    percent = endpoint.traffic_percent
    rows: list[tuple[Any, ...]] = [
        (endpoint.name, d.name, d.model, d.status, f"{percent.get(d.name, 0)} %", d.created_at, d.expires_at)
        for d in deployments
    ]
    return rows or [(endpoint.name, "none", "", "", "", "", "")]


def _endpoint_facts(endpoint: "Endpoint", deployments: "Sequence[Deployment]") -> dict[str, Any]:
    """Return an endpoint for `--json`, with what runs behind it."""
    facts = {field.name: getattr(endpoint, field.name) for field in dataclasses.fields(endpoint)}
    own = [deployment for deployment in deployments if deployment.endpoint == endpoint.name]
    names = ("name", "model", "status", "created_at", "expires_at")
    return facts | {"deployments": [{name: getattr(one, name) for name in names} for one in own]}


_OF_WORKER = ("worker", "model", "status", "port", "attempt", "error")


def _deployment_facts(deployment: "Deployment") -> dict[str, Any]:
    """Return a deployment for `--json`, which has what its worker needs and went through under `properties`."""
    facts = {field.name: getattr(deployment, field.name) for field in dataclasses.fields(deployment)}
    properties = {name: facts.pop(name) for name in ("base_artifact", "supervision")}
    del facts["replicas"], facts["number"], facts["adapter_states"]
    workers = [{name: getattr(worker, name) for name in _OF_WORKER} for worker in deployment.workers]
    return facts | {"workers": workers, "properties": properties}


def _used_today(handle: "EndpointHandle") -> dict[str, str]:
    """Return in words what each caller has used of its quotas."""
    return {
        f"used today by {usage.caller}": f"{usage.requests} requests, {usage.tokens} tokens"
        for usage in handle.used_today()
    }


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _read_json(file: Path) -> dict[str, object]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        body = json.loads(text)
    except OSError as error:
        raise InvalidFile(f"{file} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise InvalidFile(f"{file} isn't JSON: {error}.") from error
    if not isinstance(body, dict):
        raise InvalidFile(f"{file} holds {type(body).__name__}, expected a JSON object with messages.")
    return body


def _quality_lines(deployment: "Deployment") -> list[str]:
    """Return what a lower precision than evaluation's costs, where the deployment computes in one."""
    proof = last_proof(deployment, None)
    words = quality_words(proof)
    return [f"It computes in {proof.dtype}: {words}, on the held-out conversations."] if words else []


def _proof_lines(proof: object) -> list[str]:
    if not isinstance(proof, dict):
        return []
    return ["  " + ", ".join(f"{key} {value}" for key, value in proof.items() if not isinstance(value, dict | list))]
