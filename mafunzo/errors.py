"""Every error that a user can meet: one tree, each class with a stable code and an HTTP status.

The three families say what a shell script needs to know, as an exit code: `UsageError` (2) what was asked is malformed,
`RefusedError` (3) it is well-formed but may not happen now, `FailedError` (1) it was begun and broke.
A message says what, where, what was given and what to do; `faults` lists them when there are several.

`status` is the one HTTP status table: every dialect answers an error with it, but where the dialect says beside the
exception why its clients need another. A class without one of its own has its parent's.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")
D = TypeVar("D")


class MafunzoError(Exception):
    """The root of the tree. `faults` has one line for each thing wrong.

    `code` is the class's name in snake case, without `Error`. It crosses processes and clients know it: a class keeps its name.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init_subclass__(cls) -> None:
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower().removesuffix("_error")

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  - {fault}" for fault in self.faults)])

    @property
    def record(self) -> dict[str, Any]:
        """The error as JSON, as one process leaves it to another, and as a step and a deployment keep it."""
        return {"code": self.code, "message": self.message, "faults": list(self.faults)}


class UsageError(MafunzoError):
    """What was asked is malformed: nothing was started."""

    exit_code = 2
    status = 400


class InvalidParameter(UsageError):
    """A parameter is unknown, has the wrong type, or is out of range. `param` is its name where there is just one."""

    def __init__(self, message: str, faults: Sequence[str] = (), param: str | None = None) -> None:
        super().__init__(message, faults)
        self.param = param


class ContextLengthExceeded(InvalidParameter):
    """Prompt and reply together don't fit the model's context."""


class PreviousResponseNotFound(InvalidParameter):
    """A request goes on with a stored response that isn't there, or that its key may not read."""


class InvalidFile(UsageError):
    """A file is missing, empty, unreadable or of an unknown format."""


class InvalidData(UsageError):
    """Rows of a data file break the data contract; `faults` names each by file, row and reason."""


class NotFound(UsageError):
    """No asset, job, endpoint, user or catalogue entry has that name."""

    status = 404


class ResponseNotFound(NotFound):
    """No stored response has that id, or the key may not read it."""


class ContainerNotFound(NotFound):
    """No container of blobs has that name."""


class BlocksMissing(UsageError):
    """A blob is to be put together from blocks that weren't uploaded."""


class RefusedError(MafunzoError):
    """A well-formed request that may not happen now."""

    exit_code = 3
    status = 409


class NotSupported(RefusedError):
    """A known input or feature that this version doesn't honour."""

    status = 400


class Conflict(RefusedError):
    """The thing exists already, is immutable, or is in a state that forbids the verb."""


class VersionTaken(Conflict):
    """A version of an asset exists already, with other content. has_files: its content is files."""

    def __init__(self, message: str, faults: Sequence[str] = (), has_files: bool = False) -> None:
        super().__init__(message, faults)
        self.has_files = has_files


class BlobExists(Conflict):
    """A blob has the name already, and the request is for a new one."""


class PreconditionFailed(RefusedError):
    """What a conditional request says of a thing doesn't hold (RFC 9110, section 13)."""

    status = 412


class HomeInUse(RefusedError):
    """Another server holds the home folder."""


class PortInUse(RefusedError):
    """Another process listens on the port."""


class NewerHome(RefusedError):
    """The home's database was written by a newer version."""


class UnsafeModel(RefusedError):
    """Loading the model would run code or unpickle data from its folder."""


class ServingMismatch(RefusedError):
    """A worker doesn't answer as the tuned model did in evaluation; `faults` names what differs."""


class GateNotPassed(RefusedError):
    """The tuned model isn't better than its base by the job's own gate."""


class Unauthorized(RefusedError):
    """The key is missing or wrong."""

    status = 401


class Forbidden(RefusedError):
    """Who asks is known, and may not do this."""

    status = 403


class OverwriteForbidden(Forbidden):
    """Who asks may add new blobs, and not replace one."""


class RateLimitExceeded(RefusedError):
    """A rate limit: too many requests are under way, or came in too short a time. Try again later.

    retry_after_s: how much later, where that is known.
    """

    status = 429

    def __init__(self, message: str, faults: Sequence[str] = (), retry_after_s: float | None = None) -> None:
        super().__init__(message, faults)
        self.retry_after_s = retry_after_s


class ClientGone(RefusedError):
    """The client left before its answer: nobody receives the status, which is nginx's; the log and the metrics tell it."""

    status = 499


class FailedError(MafunzoError):
    """Something was begun and broke."""

    status = 500


class StepFailed(FailedError):
    """A step of a job ended with an error."""


class JobFailed(FailedError):
    """A job ended without completing."""


class JobCanceled(FailedError):
    """A job was cancelled."""


class StorageFull(FailedError):
    """The disk is full; what was being written was taken back."""

    status = 507


class ArtifactCorrupt(FailedError):
    """Stored bytes no longer have the hash that they were stored under; `faults` names each file."""


class Unreachable(FailedError):
    """A hub, registry, server or cluster can't be reached."""

    status = 503


class WorkerFailed(FailedError):
    """A worker process didn't become healthy, or died."""

    status = 502


class Unavailable(FailedError):
    """Nothing healthy can answer now; try again later."""

    status = 503


class ServerFailed(FailedError):
    """The server didn't start, didn't stop, or stopped while something waited for what it does."""


class TimedOut(FailedError):
    """Something took longer than its limit."""

    status = 504


class OutOfMemory(FailedError):
    """A device or the machine has no memory left."""

    status = 503


class PeerLost(FailedError):
    """Another process of the same training has ended, and why is told there."""


class MissingExtra(FailedError):
    """An optional dependency isn't installed; the message has the command that installs it."""


def from_record(record: Mapping[str, Any] | None, otherwise: MafunzoError) -> MafunzoError:
    """Return the error of a record, of what it leaves out what `otherwise` has; one with an unknown code is a `FailedError`."""
    record = otherwise.record | dict(record or {})
    by_code = {cls.code: cls for cls in family()}
    return by_code.get(str(record["code"]), FailedError)(str(record["message"]), tuple(record["faults"] or ()))


def family(root: type[MafunzoError] = MafunzoError) -> Iterator[type[MafunzoError]]:
    """Yield every class of the tree, `root` first."""
    yield root
    for child in root.__subclasses__():
        yield from family(child)


def did_you_mean(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """Return the end of a message that there is no `name`: the names that look like it, in whatever case, if any."""
    import difflib  # which only errors need

    by_lower = {one.lower(): one for one in sorted(known)}
    close = difflib.get_close_matches(name.lower(), by_lower, most, cutoff)
    return f" Did you mean {' or '.join(by_lower[one] for one in close)}?" if close else ""


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
