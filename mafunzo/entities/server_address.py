"""Where a server that runs is found."""

from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ServerAddress:
    """A server that runs: its process, by id and start (seconds since the epoch), and its ports.

    port: http, for OpenAI's dialect and MLflow. azure_port: https, for the Azure SDK. listen: the address of both.
    """

    pid: int
    pid_start: float
    port: int
    started_at: str
    azure_port: int
    listen: str = LOOPBACK

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
    def azure_url(self) -> str:
        return f"https://{self.host}:{self.azure_port}"
