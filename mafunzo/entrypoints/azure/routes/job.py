"""Jobs over Azure's wire: as resources, and as runs of the run history."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from mafunzo.entities.job import JOB_NAME, Job
from mafunzo.entities.reference import JobOutputReference
from mafunzo.entrypoints.azure.context import Azure, AzureContext, Body, azure_context, whoever_signed
from mafunzo.entrypoints.azure.output import publish
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.routes.page import archived_view, paged, scan_of, scrolled
from mafunzo.entrypoints.azure.sas import READ
from mafunzo.entrypoints.azure.wire import job as job_wire
from mafunzo.entrypoints.azure.wire import run as run_wire
from mafunzo.entrypoints.azure.wire.envelope import WS, datastore_uri
from mafunzo.entrypoints.http.byte_range import byte_range
from mafunzo.errors import InvalidParameter, NotFound, NotSupported

LOGS = "/logs"
PAGES = "/jobs"
"""The path of a job's web page, to which the SDK links."""

public = APIRouter()
router = APIRouter()


@router.get(f"{WS}/jobs")
def list_jobs(request: Request, azure: Azure) -> Any:
    """List the jobs, newest first."""
    jobs = azure.workspace.jobs.scan(scan_of(request), archived_view(request))
    return scrolled(
        request,
        ((position, job) for position, job in jobs if _matches_filter(request, job)),
        lambda job: job_wire.job_body(job, _pages(azure, job.name)),
        lambda job: job_wire.broken_job_body(job, _pages(azure, job.name)),
    )


@router.get(f"{WS}/jobs/{{name}}")
def get_job(azure: Azure, name: str) -> Any:
    """Return one job; a step of one is a job too."""
    handle, step = azure.workspace.jobs.find(name)
    return run_wire.child_body(step) if step else job_wire.job_body(handle.job, _pages(azure, name))


@router.put(f"{WS}/jobs/{{name}}")
def put_job(azure: Azure, name: str, body: Body) -> Response:
    """Validate a job and put it into the queue; the PUT is idempotent.

    The request of an earlier job of that name is read from its stored body.
    """
    jobs, job_request = azure.workspace.jobs, job_wire.job_from_body(name, body)
    earlier = job_wire.request_of(jobs.get(name).job) if jobs.has(name) else None
    handle = jobs.create(job_request, earlier)
    return JSONResponse(job_wire.job_body(handle.job, _pages(azure, name)), status_code=201)


@router.delete(f"{WS}/jobs/{{name}}")
def delete_job(azure: Azure, name: str) -> Response:
    """Delete a job that has ended, and the artifacts that nothing else references."""
    azure.workspace.jobs.delete(name)
    return Response(status_code=200)


@router.post(f"{WS}/jobs/{{name}}/cancel")
def cancel_job(azure: Azure, name: str) -> Response:
    """Request a job's cancellation."""
    handle, step = azure.workspace.jobs.find(name)
    if step is not None:
        raise NotSupported(f"{name} is a step of job {step.job}, and ends with it: cancel that job.")
    handle.cancel()
    return Response(status_code=200)


@router.get(f"{WS}/runs/{{name}}")
def get_run(azure: Azure, name: str) -> Any:
    """Return a job, or a step of one, as its run."""
    handle, step = azure.workspace.jobs.find(name)
    return run_wire.child_run_body(handle.job, step, handle.steps) if step else run_wire.run_body(handle.job)


@router.get(f"{WS}/runs/{{name}}/children")
def list_children(request: Request, azure: Azure, name: str) -> Any:
    """List the steps of a job, or the trials of a step of it, as child runs."""
    handle, parent = azure.workspace.jobs.find(name)
    job, steps = handle.job, handle.steps
    children = run_wire.children_of(steps, parent)
    return paged(request, children, lambda step: run_wire.child_run_body(job, step, steps))


@router.patch(f"{WS}/experiments/{{experiment}}/runs/{{name}}")
def patch_run(azure: Azure, name: str, body: Body) -> Response:
    """Change a job's display name, description or tags, or archive it."""
    job = azure.workspace.jobs.change(name, job_wire.change_from_body(body))
    return JSONResponse(run_wire.run_body(job))


@router.get(f"{WS}/runs/{{name}}/details")
def get_run_details(azure: Azure, name: str) -> Any:
    """Return a job's status, and the address of its log.

    The SDK, which asks this for `jobs.stream` alone, prints nothing of a job that has ended: the first answer is that it is
    being finalized, so that the log of a quick job is shown too.
    """
    job = azure.workspace.jobs.get(name).job
    log = f"{azure.place.base}{LOGS}/{name}?{azure.sas.sign(_log_of(name), READ)}"
    is_first = azure.job_logs.begin(name)
    return run_wire.run_details(job, log, is_finalizing=is_first and job.status.is_terminal)


@router.get(f"{WS}/runs/{{name}}/serviceinstances/{{node}}")
def list_services(azure: Azure, name: str) -> Any:
    """Return the interactive services of a job's node: none are run here."""
    azure.workspace.jobs.get(name)
    return {"instances": {}}


@router.post(f"{WS}/rundata")
def get_run_data(request: Request, azure: Azure, body: Body) -> Any:
    """Return the status of a job, or of a step, and the ids of its outputs, which are published as blobs once it has ended."""
    name = str(body.get("runId"))
    handle, step = azure.workspace.jobs.find(name)
    is_ended = (step or handle).status.is_terminal
    outputs = publish(azure.workspace, handle.name, step.name if step else None) if is_ended else ()
    client = request.headers.get("user-agent", "")
    return run_wire.run_data(name, run_wire.status_of(step or handle.job), outputs, client)


@router.post(f"{WS}/dataversion/batchGetResolvedUris")
def resolve_outputs(body: Body) -> Any:
    """Resolve the ids of outputs to datastore URIs."""
    return {"values": {id: {"uri": _path_of(id)} for id in map(str, body.get("values") or ())}}


@public.get(f"{PAGES}/{{name}}")
def tell_where_to_look(name: str) -> Response:
    """Say to whoever opens a job's web view how it is looked at; nothing of the job itself is told."""
    known = name.partition("&")[0]  # the SDK appends a parameter, whatever the address
    if not JOB_NAME.fullmatch(known):
        raise NotFound("No job has such a name.")
    return PlainTextResponse(
        f"Look at this job on the machine that it runs on:\n\n  mafunzo job show {known}\n  mafunzo job stream {known}\n"
    )


@public.get(f"{LOGS}/{{name}}")
def get_log(request: Request, name: str) -> Response:
    """Return a job's log so far, or a range of it, to a caller with its signed address. No more than a block is in memory."""
    whoever_signed(request, lambda sas: sas.check(_log_of(name), READ, request.query_params))
    log, size = azure_context(request).job_logs.get(name)
    headers = {"accept-ranges": "bytes"}
    part = byte_range(request.headers.get("range"), size)
    if part is None:
        return PlainTextResponse("", 416, {**headers, "content-range": f"bytes */{size}"})
    first, end = part
    headers["content-length"] = str(end - first)
    status = 200
    if end - first < size:
        headers["content-range"], status = f"bytes {first}-{end - 1}/{size}", 206
    return StreamingResponse(log.read(first, end), status, headers, media_type="text/plain")


def _matches_filter(request: Request, job: Job) -> bool:
    """Return whether a job matches a list's filter: `tag=name` or `tag=name=value`, a type, `properties=name=value,...`."""
    tag, _, value = request.query_params.get("tag", "").partition("=")
    has_tag = not tag or (tag in job.tags and value in ("", job.tags[tag]))
    pairs = [pair.partition("=") for pair in request.query_params.get("properties", "").split(",") if pair]
    has_properties = all(str(job.user_properties.get(name)) == text for name, _, text in pairs)
    return has_tag and has_properties and request.query_params.get("jobType") in (None, "", run_wire.kind_of(job))


def _path_of(id: str) -> str:
    """Return the datastore URI of an output, by its id in the run data."""
    reference = parse_reference(id)
    if not isinstance(reference, JobOutputReference):
        raise InvalidParameter(f"'{id}' isn't the id of a job's output: azureml://jobs/JOB/outputs/OUTPUT.")
    return datastore_uri(run_wire.output_path(reference.job, reference.output))


def _pages(azure: AzureContext, job: str) -> str:
    return f"{azure.place.base}{PAGES}/{job}"


def _log_of(job: str) -> str:
    return f"log of {job}"
