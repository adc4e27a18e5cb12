"""The pictures of an evaluation: one for each thing that was measured."""

import numpy as np

from mafunzo.compute.evaluation.compare import Estimate
from mafunzo.compute.evaluation.picture import _reach, pictures
from tests.support.made_evaluation import FORGETTING, made_evaluation


def test_what_was_not_measured_has_no_picture():
    assert set(pictures(made_evaluation())) == {"loss_by_row.png", "metrics.png"}
    assert set(pictures(made_evaluation(comparisons={}))) == {"loss_by_row.png"}


def test_pictures_are_png_files_and_repeat_themselves():
    evaluation = made_evaluation(forgetting=FORGETTING)
    first = pictures(evaluation)
    assert all(png.startswith(b"\x89PNG") for png in first.values()) and len(first) == 3
    assert pictures(evaluation) == first


def test_equal_models_can_be_drawn():
    loss = np.array([2.0, 2.0])
    assert "loss_by_row.png" in pictures(made_evaluation(base_loss_by_row=loss, tuned_loss_by_row=loss))


def test_an_interval_beside_its_value_reaches_no_further_than_the_value():
    assert _reach(Estimate(1.0, 1.1, 1.3)) == [[0.0], [1.3 - 1.0]]
