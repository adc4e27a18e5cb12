"""Computes in Azure's JSON: durations."""

import pytest

from mafunzo.entrypoints.azure.wire.compute import compute_from_body, seconds_of
from mafunzo.errors import InvalidParameter


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("PT2M", 120), ("P1DT30S", 86430), ("PT1H1M1S", 3661), ("PT2.5S", 2.5), ("PT1M0,25S", 60.25), ("P1D", 86400)],
)
def test_a_duration_in_seconds(duration: str, seconds: float) -> None:
    assert seconds_of(duration) == seconds


@pytest.mark.parametrize("duration", ["", "P", "PT", "2.5", "PT.5S", "PT2.5.1S", "PT-1S"])
def test_what_is_no_duration_is_refused(duration: str) -> None:
    with pytest.raises(InvalidParameter, match="isn't a duration"):
        seconds_of(duration)


def test_an_idle_time_is_whole_seconds() -> None:
    scale = {"nodeIdleTimeBeforeScaleDown": "PT2M"}
    inner = {"vmSize": "Standard_DS3_v2", "scaleSettings": scale}
    made = compute_from_body("c", {"properties": {"computeType": "AmlCompute", "properties": inner}})
    assert (made.idle_s, type(made.idle_s)) == (120, int)
