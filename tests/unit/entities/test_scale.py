"""How many workers may be asked for."""

import pytest

from mafunzo.entities.scale import Scale, require_scale
from mafunzo.errors import InvalidParameter


@pytest.mark.parametrize("scale", [Scale(), Scale(0, 1), Scale(64, 64), Scale(0, 64, 100, 0.5, 1.0)])
def test_numbers_that_can_be_pass(scale: Scale) -> None:
    require_scale(scale)


def test_all_that_can_not_be_is_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as caught:
        require_scale(Scale(70, 65, target_percent=0, polling_s=0, idle_s=float("nan")))
    assert [fault.partition(",")[0] for fault in caught.value.faults] == [
        "min_instances is 70",
        "max_instances is 65",
        "min_instances is 70",
        "target_utilization_percentage is 0",
        "polling_interval is 0 s",
        "idle_minutes is nan s",
    ]


def test_a_deployment_of_no_worker_ever_is_refused() -> None:
    with pytest.raises(InvalidParameter, match=r"max_instances is 0, expected 1 to 64\. To serve nothing, delete"):
        require_scale(Scale(0, 0))


def test_a_number_is_told_in_words() -> None:
    assert str(Scale(2, 2)) == "2"
    assert str(Scale(0, 3, idle_s=90)) == "0 to 3 by load, idle 1.5 minutes"
