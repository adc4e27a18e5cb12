"""Machines are recorded, and those that this version can't use are refused."""

from mafunzo.entities.component import parse_value
from mafunzo.entities.parameters.machine import MACHINE

NAMED = {parameter.name: parameter for parameter in MACHINE}


def test_every_step_has_a_compute_and_a_machine_size():
    steps = ("model_import", "preprocess", "finetune", "model_evaluation")
    assert all({f"compute_{step}", f"instance_type_{step}"} <= set(NAMED) for step in steps)
    assert {NAMED[f"compute_{step}"].default for step in steps} == {"serverless"}


def test_several_machines_are_refused():
    assert "use 1" in parse_value(NAMED["num_nodes_finetune"].as_input(), 2)[1]
    assert parse_value(NAMED["num_nodes_finetune"].as_input(), 1) == (1, "")
