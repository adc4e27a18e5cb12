"""Our own files, validated with every fault at once."""

import pytest
from pydantic import BaseModel

from mafunzo.entities.validation import validated
from mafunzo.errors import InvalidFile


class Card(BaseModel):
    name: str
    sizes: list[int]


def test_a_body_becomes_what_it_says() -> None:
    assert validated("x.yml: no card.", lambda: Card.model_validate({"name": "a", "sizes": [1]})).sizes == [1]


def test_every_fault_is_told_by_its_place_or_as_many_as_are_shown() -> None:
    body = {"sizes": [1, "two", "three"]}
    with pytest.raises(InvalidFile, match=r"x\.yml: no card\.") as caught:
        validated("x.yml: no card.", lambda: Card.model_validate(body))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["name", "sizes.1", "sizes.2"]
    with pytest.raises(InvalidFile) as caught:
        validated("x.yml: no card.", lambda: Card.model_validate(body), most=1)
    assert len(caught.value.faults) == 1
