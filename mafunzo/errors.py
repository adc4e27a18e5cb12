"""Every error that a user can meet: one tree, each class with a stable code and an HTTP status.

The three families say what a shell script needs to know, as an exit code: `UsageError` (2) what was asked is malformed,
`RefusedError` (3) it is well-formed but may not happen now, `FailedError` (1) it was begun and broke.
A message says what, where, what was given and what to do; `faults` lists them when there are several.

`status` is the one HTTP status table: every dialect answers an error with it, but where the dialect says beside the
exception why its clients need another. A class without one of its own has its parent's.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")
D = TypeVar("D")


class MafunzoError(Exception):
    """The root of the tree. `code` is stable and crosses processes; `faults` has one line for each thing wrong."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.faults = tuple(faults)

    @property
    def record(self) -> dict[str, Any]:
        """The error as JSON for another process or time; `from_code` makes it anew."""
        return {"code": self.code, "message": self.message, "faults": list(self.faults)}

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  - {fault}" for fault in self.faults)])


class UsageError(MafunzoError):
    """What was asked is malformed: nothing was started."""

    code = "usage"
    exit_code = 2
    status = 400


class InvalidParameter(UsageError):
    """A parameter is unknown, has the wrong type, or is out of range. `param` is its name where there is just one."""

    code = "invalid_parameter"

    def __init__(self, message: str, faults: Sequence[str] = (), param: str | None = None) -> None:
        super().__init__(message, faults)
        self.param = param


class ContextLengthExceeded(InvalidParameter):
    """Prompt and reply together don't fit the model's context."""

    code = "context_length_exceeded"


class InvalidFile(UsageError):
    """A file is missing, empty, unreadable or of an unknown format."""

    code = "invalid_file"


class InvalidData(UsageError):
    """Rows of a data file break the data contract; `faults` names each by file, row and reason."""

    code = "invalid_data"


class NotFound(UsageError):
    """No asset, job, endpoint, user or catalogue entry has that name."""

    code = "not_found"
    status = 404


class ContainerNotFound(NotFound):
    """No container of blobs has that name."""

    code = "container_not_found"


class BlocksMissing(UsageError):
    """A blob is to be put together from blocks that weren't uploaded."""

    code = "blocks_missing"


class RefusedError(MafunzoError):
    """A well-formed request that may not happen now."""

    code = "refused"
    exit_code = 3
    status = 409


class NotSupported(RefusedError):
    """A known input or feature that this version doesn't honour."""

    code = "not_supported"
    status = 400


class Conflict(RefusedError):
    """The thing exists already, is immutable, or is in a state that forbids the verb."""

    code = "conflict"


class BlobExists(Conflict):
    """A blob has the name already, and the request is for a new one."""

    code = "blob_exists"


class PreconditionFailed(RefusedError):
    """What a conditional request says of a thing doesn't hold (RFC 9110, section 13)."""

    code = "precondition_failed"
    status = 412


class HomeInUse(RefusedError):
    """Another server holds the home folder."""

    code = "home_in_use"


class PortInUse(RefusedError):
    """Another process listens on the port."""

    code = "port_in_use"


class NewerHome(RefusedError):
    """The home's database was written by a newer version."""

    code = "newer_home"


class UnsafeModel(RefusedError):
    """Loading the model would run code or unpickle data from its folder."""

    code = "unsafe_model"


class ServingMismatch(RefusedError):
    """A worker doesn't answer as the tuned model did in evaluation; `faults` names what differs."""

    code = "serving_mismatch"


class GateNotPassed(RefusedError):
    """The tuned model isn't better than its base by the job's own gate."""

    code = "gate_not_passed"


class Unauthorized(RefusedError):
    """The key is missing or wrong."""

    code = "unauthorized"
    status = 401


class Forbidden(RefusedError):
    """Who asks is known, and may not do this."""

    code = "forbidden"
    status = 403


class OverwriteForbidden(Forbidden):
    """Who asks may add new blobs, and not replace one."""

    code = "overwrite_forbidden"


class RateLimitExceeded(RefusedError):
    """A rate limit: too many requests are under way, or came in too short a time. Try again a little later."""

    code = "rate_limit_exceeded"
    status = 429


class ClientGone(RefusedError):
    """The client left before its answer: nobody receives the status, which is nginx's; the log and the metrics tell it."""

    code = "client_gone"
    status = 499


class FailedError(MafunzoError):
    """Something was begun and broke."""

    code = "failed"
    status = 500


class StepFailed(FailedError):
    """A step of a job ended with an error."""

    code = "step_failed"


class JobFailed(FailedError):
    """A job ended without completing."""

    code = "job_failed"


class JobCanceled(FailedError):
    """A job was cancelled."""

    code = "job_canceled"


class StorageFull(FailedError):
    """The disk is full; what was being written was taken back."""

    code = "storage_full"
    status = 507


class ArtifactCorrupt(FailedError):
    """Stored bytes no longer have the hash that they were stored under; `faults` names each file."""

    code = "artifact_corrupt"


class Unreachable(FailedError):
    """A hub, registry or server can't be reached."""

    code = "unreachable"
    status = 503


class WorkerFailed(FailedError):
    """A worker process didn't become healthy, or died."""

    code = "worker_failed"
    status = 502


class Unavailable(FailedError):
    """Nothing healthy can answer now; try again later."""

    code = "unavailable"
    status = 503


class ServerFailed(FailedError):
    """The server didn't start, or didn't stop."""

    code = "server_failed"


class TimedOut(FailedError):
    """Something took longer than its limit."""

    code = "timed_out"
    status = 504


class OutOfMemory(FailedError):
    """A device or the machine has no memory left."""

    code = "out_of_memory"
    status = 503


class MissingExtra(FailedError):
    """An optional dependency isn't installed; the message has the command that installs it."""

    code = "missing_extra"


def from_code(code: str, message: str, faults: Sequence[str] = ()) -> MafunzoError:
    """Return the error that another process recorded by its `code`; an unknown code gives a `FailedError`."""
    by_code = {cls.code: cls for cls in family()}
    return by_code.get(code, FailedError)(message, faults)


def family(root: type[MafunzoError] = MafunzoError) -> Iterator[type[MafunzoError]]:
    """Yield every class of the tree, `root` first."""
    yield root
    for child in root.__subclasses__():
        yield from family(child)


class Faults:
    """Collects what is wrong with one request, file or job, so that everything is told at once, each fault once.

    where: stands before each fault ("step 'train': "), so that a part of a larger thing can be checked by itself.
    """

    def __init__(self, where: str = "") -> None:
        self._where = where
        self._texts: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, *texts: str) -> None:
        """Keep faults; an empty text is none."""
        self._texts.update(dict.fromkeys(f"{self._where}{text}" for text in texts if text))

    def attempt(self, work: Callable[[], T], default: D) -> T | D:
        """Return `work()`; where it raises a `UsageError`, keep its faults (else its message) and return `default`."""
        try:
            return work()
        except UsageError as error:
            self.add(*(error.faults or (error.message,)))
            return default

    def require_none(self, message: str, error: type[MafunzoError] = InvalidParameter) -> None:
        """Raise `error` with all faults, if there are any."""
        if self._texts:
            raise error(message, tuple(self._texts))
