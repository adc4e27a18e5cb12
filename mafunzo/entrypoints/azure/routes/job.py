"""Jobs over Azure's wire: as resources, and as runs of the run history."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mafunzo.control.workspace.jobs import JobHandle
from mafunzo.entities.job import JOB_NAME, Job
from mafunzo.entities.job_request import JobRequest
from mafunzo.entities.reference import JobOutputReference
from mafunzo.entrypoints.azure.context import AzureContext, azure_context, body_of, whoever_signed
from mafunzo.entrypoints.azure.output import publish
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.routes.page import listed, paged
from mafunzo.entrypoints.azure.routes.path import WS
from mafunzo.entrypoints.azure.sas import READ
from mafunzo.entrypoints.azure.wire import job as job_wire
from mafunzo.entrypoints.azure.wire.envelope import datastore_uri
from mafunzo.errors import InvalidParameter, NotFound, NotSupported

LOGS = "/logs"
PAGES = "/jobs"
"""The path of a job's web page, to which the SDK links."""

public = APIRouter()
router = APIRouter()


@router.get(f"{WS}/jobs")
def list_jobs(request: Request) -> Any:
    """List the jobs, newest first."""
    context = azure_context(request)
    jobs = [job for job in context.workspace.jobs.list() if _matches_filter(request, job)]
    view = listed(request, jobs, lambda job: job.is_archived)
    return paged(request, [job_wire.job_body(job, _pages(context, job.name)) for job in view])


@router.get(f"{WS}/jobs/{{name}}")
def get_job(request: Request, name: str) -> Any:
    """Return one job; a step of one is a job too."""
    context = azure_context(request)
    step = context.workspace.jobs.find_step(name)
    if step is not None:
        return job_wire.child_body(step)
    return job_wire.job_body(context.workspace.jobs.get(name).job, _pages(context, name))


@router.put(f"{WS}/jobs/{{name}}")
async def put_job(request: Request, name: str) -> Response:
    """Validate a job and put it into the queue; the PUT is idempotent."""
    context = azure_context(request)
    job_request = job_wire.job_from_body(name, await body_of(request))
    handle = await context.in_thread(lambda: _create(context, job_request))
    return JSONResponse(job_wire.job_body(handle.job, _pages(context, name)), status_code=201)


@router.delete(f"{WS}/jobs/{{name}}")
def delete_job(request: Request, name: str) -> Response:
    """Delete a job that has ended, and the artifacts that nothing else references."""
    azure_context(request).workspace.jobs.delete(name)
    return Response(status_code=200)


@router.post(f"{WS}/jobs/{{name}}/cancel")
def cancel_job(request: Request, name: str) -> Response:
    """Request a job's cancellation."""
    jobs = azure_context(request).workspace.jobs
    if (step := jobs.find_step(name)) is not None:
        raise NotSupported(f"{name} is a step of job {step.job}, and ends with it: cancel that job.")
    jobs.get(name).cancel()
    return Response(status_code=200)


@router.get(f"{WS}/runs/{{name}}")
def get_run(request: Request, name: str) -> Any:
    """Return a job, or a step of one, as its run."""
    jobs = azure_context(request).workspace.jobs
    step = jobs.find_step(name)
    if step is not None:
        return job_wire.child_run_body(jobs.get(step.job).job, step)
    return job_wire.run_body(jobs.get(name).job)


@router.get(f"{WS}/runs/{{name}}/children")
def list_children(request: Request, name: str) -> Any:
    """List the steps of a job as child runs."""
    handle = azure_context(request).workspace.jobs.get(name)
    job = handle.job
    return paged(request, [job_wire.child_run_body(job, step) for step in handle.steps])


@router.patch(f"{WS}/experiments/{{experiment}}/runs/{{name}}")
async def patch_run(request: Request, name: str) -> Response:
    """Change a job's display name, description or tags, or archive it."""
    context = azure_context(request)
    change = job_wire.change_from_body(await body_of(request))
    job = await context.in_thread(lambda: context.workspace.jobs.change(name, change))
    return JSONResponse(job_wire.run_body(job))


@router.get(f"{WS}/runs/{{name}}/details")
def get_run_details(request: Request, name: str) -> Any:
    """Return a job's status, and the address of its log.

    The SDK, which asks this for `jobs.stream` alone, prints nothing of a job that has ended: the first answer is that it is
    being finalized, so that the log of a quick job is shown too.
    """
    context = azure_context(request)
    job = context.workspace.jobs.get(name).job
    log = f"{context.place.base}{LOGS}/{name}?{context.sas.sign(_log_of(name), READ)}"
    is_first = context.job_logs.begin(name)
    return job_wire.run_details(job, log, is_finalizing=is_first and job.status.is_terminal)


@router.get(f"{WS}/runs/{{name}}/serviceinstances/{{node}}")
def list_services(request: Request, name: str, node: str) -> Any:
    """Return the interactive services of a job's node: none are run here."""
    azure_context(request).workspace.jobs.get(name)
    return {"instances": {}}


@router.post(f"{WS}/rundata")
async def get_run_data(request: Request) -> Any:
    """Return a job's status and the ids of its outputs."""
    context, body = azure_context(request), await body_of(request)
    return await context.in_thread(lambda: _run_data(context, str(body.get("runId"))))


@router.post(f"{WS}/dataversion/batchGetResolvedUris")
async def resolve_outputs(request: Request) -> Any:
    """Resolve the ids of outputs to datastore URIs."""
    body = await body_of(request)
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
    """Return a job's log so far, to a caller with its signed address."""
    context = azure_context(request)
    whoever_signed(request, lambda sas: sas.check(_log_of(name), READ, request.query_params))
    return PlainTextResponse(context.job_logs.text(name))


def _create(context: AzureContext, request: JobRequest) -> JobHandle:
    """Put a job into the queue. The request of an earlier job of that name is read from its stored body."""
    jobs = context.workspace.jobs
    earlier = job_wire.request_of(jobs.get(request.name).job) if jobs.has(request.name) else None
    return jobs.create(request, earlier)


def _matches_filter(request: Request, job: Job) -> bool:
    """Return whether a job matches a list's filter: `tag=name` or `tag=name=value`, a type, `properties=name=value,...`."""
    tag, _, value = request.query_params.get("tag", "").partition("=")
    kind = request.query_params.get("jobType")
    has_tag = not tag or (tag in job.tags and value in ("", job.tags[tag]))
    properties = job.user_properties
    filters = filter(None, request.query_params.get("properties", "").split(","))
    has_properties = all(
        str(properties.get(name)) == text for name, _, text in (pair.partition("=") for pair in filters)
    )
    return has_tag and has_properties and kind in (None, "", job_wire.kind_of(job))


def _run_data(context: AzureContext, name: str) -> dict[str, Any]:
    """Return a run's data. The outputs of one that has ended are published as blobs."""
    jobs = context.workspace.jobs
    step = jobs.find_step(name)
    if step is None:
        handle = jobs.get(name)
        status, is_ended = job_wire.status_of_job(handle.job), handle.status.is_terminal
    else:
        handle, status, is_ended = jobs.get(step.job), job_wire.STEP_STATUS[step.status], step.status.is_terminal
    outputs = publish(context.workspace, handle.name, step.name if step else None) if is_ended else ()
    return job_wire.run_data(name, status, outputs)


def _path_of(id: str) -> str:
    """Return the datastore URI of an output, by its id in the run data."""
    reference = parse_reference(id)
    if not isinstance(reference, JobOutputReference):
        raise InvalidParameter(f"'{id}' isn't the id of a job's output: azureml://jobs/JOB/outputs/OUTPUT.")
    return datastore_uri(job_wire.output_path(reference.job, reference.output))


def _pages(context: AzureContext, job: str) -> str:
    return f"{context.place.base}{PAGES}/{job}"


def _log_of(job: str) -> str:
    return f"log of {job}"
