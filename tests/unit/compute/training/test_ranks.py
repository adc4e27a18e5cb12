"""A process that trains alone; what several do together is in `tests/flows/test_ranks.py`."""

from mafunzo.compute.training.ranks import ALONE, joined


def test_a_process_that_nobody_started_beside_others_is_alone():
    with joined({}) as ranks:
        assert ranks is ALONE
