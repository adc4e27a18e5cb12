"""Where a server that runs is found."""

from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ServerAddress:
    """A server that runs: its process, by id and start (seconds since the epoch), and its ports.

    port: http. https_port: None where no way in needs one. listen: the address of both. identity: of the process, which the
    clock doesn't move; empty from an earlier version.
    """

    pid: int
    pid_start: float
    port: int
    started_at: str
    https_port: int | None = None
    listen: str = LOOPBACK
    identity: str = field(default="", compare=False)

    @property
    def is_private(self) -> bool:
        """Whether nobody but this machine reaches it."""
        return self.listen == LOOPBACK

    @property
    def host(self) -> str:
        """Where this machine finds it, as it stands in a URL."""
        own = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.listen, self.listen)
        return f"[{own}]" if ":" in own else own

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def https_url(self) -> str:
        assert self.https_port is not None, "only ways in that need the port ask"
        return f"https://{self.host}:{self.https_port}"
