"""What comparisons of mirrored requests say together."""

from typing import Any

import pytest

from mafunzo.entities.mirror import Comparison, Latency, MirrorReport, report_of, require_mirror
from mafunzo.errors import InvalidParameter


def comparison(**more: Any) -> Comparison:
    fields: dict[str, Any] = {
        "at": 0.0,
        "live": "blue",
        "mirror": "green",
        "is_sampled": False,
        "is_equal": True,
        "same_characters": 10,
        "live_status": 200,
        "mirror_status": 200,
        "live_characters": 10,
        "mirror_characters": 10,
        "live_s": 1.0,
        "mirror_s": 2.0,
    }
    return Comparison(**fields | more)


def test_without_comparisons_a_report_says_nothing() -> None:
    assert report_of("green", []) == MirrorReport("green")


def test_answers_are_counted_by_how_they_compare() -> None:
    report = report_of(
        "green",
        [
            comparison(),
            comparison(is_equal=False, mirror_characters=40, is_sampled=True),
            comparison(is_equal=False, mirror_characters=10),
            comparison(mirror_status=502, is_equal=False, mirror_characters=0),
            comparison(live_status=400, is_equal=False),
        ],
    )
    assert (report.compared, report.equal, report.different, report.different_sampled, report.failed) == (3, 1, 2, 1, 1)
    assert (report.live_characters, report.mirror_characters) == (10, 20)


def test_latencies_are_told_by_the_median_and_the_95_percent() -> None:
    report = report_of("green", [comparison(live_s=float(s), mirror_s=2.0 * s) for s in range(101)])
    assert (report.live_latency, report.mirror_latency) == (Latency(50, 95), Latency(100, 190))


def test_one_deployment_may_be_a_mirror() -> None:
    require_mirror("chat", ["blue", "green"], {"green": 10, "blue": 0})
    require_mirror("chat", [], {})


def test_all_that_can_not_be_is_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as caught:
        require_mirror("chat", ["blue", "green"], {"blue": 101, "green": -1, "red": 5})
    assert list(caught.value.faults) == [
        "Endpoint chat has no deployment 'red'.",
        "blue is 101, expected 0 to 100.",
        "green is -1, expected 0 to 100.",
        "blue and green and red are mirrors, expected one at most.",
    ]
