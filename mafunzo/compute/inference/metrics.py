"""A worker's Prometheus metrics."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters, gauges and histograms (seconds; time to first token included) in a registry of their own."""

    def __init__(self, load: Callable[[], tuple[int, int]]) -> None:
        """`load` returns how many sequences run and how many wait."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "mafunzo_requests", "Requests answered, by how they ended", ["outcome"], registry=self._registry
        )
        self.prompt_tokens = Counter("mafunzo_prompt_tokens", "Tokens of prompts", registry=self._registry)
        self.generated_tokens = Counter("mafunzo_generated_tokens", "Tokens generated", registry=self._registry)
        self.first_token_s = Histogram(
            "mafunzo_time_to_first_token_seconds",
            "From the request to the first token, time in the queue included",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.request_s = Histogram(
            "mafunzo_request_seconds", "From the request to its end", buckets=SECONDS, registry=self._registry
        )
        running = Gauge("mafunzo_sequences_running", "Sequences in the batch", registry=self._registry)
        waiting = Gauge("mafunzo_sequences_waiting", "Sequences in the queue", registry=self._registry)
        running.set_function(lambda: load()[0])
        waiting.set_function(lambda: load()[1])

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)
