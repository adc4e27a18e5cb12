"""Quotas of a day: counted over a restart, forgotten at midnight (UTC), settled by what a request took."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest

from mafunzo.control.serving.quota import Quotas, read_file
from mafunzo.control.serving.rate import Rates
from mafunzo.entities.endpoint import Endpoint
from mafunzo.entities.rate_limit import Allowance, DayUsage, RateLimit
from mafunzo.errors import RateLimitExceeded

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Bench:
    """A server's counts, in a file; `now` is moved, and `restart` makes those of the next server."""

    def __init__(self, folder: Path, limit: RateLimit) -> None:
        self.now, self.file = NOON, folder / "quotas.json"
        self.endpoint = Endpoint("chat", rate_limits={"default": limit})
        self.restart()

    def restart(self) -> None:
        self.quotas = Quotas(self.file, lambda: self.now)
        self.rates = Rates(lambda: 0.0, self.quotas)

    def is_let_in(self, caller: str = "primary", tokens: int = 0) -> bool:
        try:
            self.rates.admit(self.endpoint, caller, tokens)
        except RateLimitExceeded:
            return False
        return True


def test_a_day_s_requests_are_counted_over_a_restart_and_for_each_caller_by_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path, RateLimit(requests_per_day=3))
    assert [bench.is_let_in() for _ in range(2)] == [True, True]
    bench.quotas.keep()
    bench.restart()
    assert [bench.is_let_in() for _ in range(2)] == [True, False]
    assert bench.is_let_in("user:amina")
    with pytest.raises(
        RateLimitExceeded, match=r"'primary' may ask endpoint 'chat' for 3 requests a day, and has used 3.* in 43200 s"
    ) as refused:
        bench.rates.admit(bench.endpoint, "primary", 0)
    assert refused.value.retry_after_s == 12 * 3600
    bench.now += timedelta(hours=12)
    assert bench.is_let_in()


def test_tokens_are_charged_before_and_settled_after_on_the_day_of_the_request(tmp_path: Path) -> None:
    bench = Bench(tmp_path, RateLimit(tokens_per_day=100))
    permit = bench.rates.admit(bench.endpoint, "primary", 80)
    assert permit.counts_tokens
    assert not bench.is_let_in(tokens=30)
    permit.settle(10)
    permit.settle(10)
    assert bench.rates.state(bench.endpoint, "primary").tokens_today == Allowance(100, 90, 12 * 3600)
    late = bench.rates.admit(bench.endpoint, "primary", 20)
    bench.now += timedelta(hours=13)
    late.settle(30)
    assert bench.rates.state(bench.endpoint, "primary").tokens_today == Allowance(100, 100, 23 * 3600)
    assert bench.is_let_in(tokens=500), "one that alone is more than a day's worth"


def test_a_request_that_a_quota_or_a_rate_refuses_counts_for_neither(tmp_path: Path) -> None:
    bench = Bench(tmp_path, RateLimit(requests_per_minute=1, requests_per_day=5))
    assert [bench.is_let_in() for _ in range(3)] == [True, False, False]
    state = bench.rates.state(bench.endpoint, "primary")
    assert state.requests_today == Allowance(5, 4, 12 * 3600)
    assert state.requests == Allowance(1, 0, 60.0)


def test_the_loop_keeps_the_counts_and_does_so_a_last_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, RateLimit(requests_per_day=3))
    (stop := Event()).set()
    bench.quotas.run(stop)
    assert not bench.file.exists(), "there is nothing to keep yet"
    bench.is_let_in()
    bench.quotas.run(stop)
    assert read_file(bench.file) == [DayUsage("chat", "primary", "2026-11-30", 1, 0)]


def test_counts_that_were_cut_off_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "quotas.json").write_text('[{"endpoint"')
    assert Bench(tmp_path, RateLimit(requests_per_day=1)).is_let_in()
    assert "quotas begin anew" in caplog.text


def test_on_a_full_disk_the_counts_are_kept_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path, RateLimit(requests_per_day=3))
    bench.is_let_in()
    bench.file.mkdir()
    bench.quotas.keep()
    assert "The counts of quotas weren't kept" in caplog.text
    bench.file.rmdir()
    bench.quotas.keep()
    assert len(read_file(bench.file)) == 1
