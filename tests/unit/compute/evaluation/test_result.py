"""The result of an evaluation is values that JSON takes as they are."""

import json
from dataclasses import FrozenInstanceError, asdict

import pytest

from tests.support.made_evaluation import FORGETTING, made_evaluation


def test_what_was_forgotten_is_written_as_it_is():
    assert json.loads(json.dumps(asdict(FORGETTING)))["topics"] == {"code": 0.2, "law": 0.3}


def test_a_result_does_not_change():
    with pytest.raises(FrozenInstanceError):
        made_evaluation().samples = []
