"""Machines are recorded, and training takes those that are asked for and here."""

import pytest

from mafunzo.entities.compute import Hardware
from mafunzo.entities.job import Resources
from mafunzo.entities.parameters.machine import MACHINE, training_faults, training_resources

NAMED = {parameter.name: parameter for parameter in MACHINE}


def test_every_step_has_a_compute_and_a_machine_size():
    steps = ("model_import", "preprocess", "finetune", "model_evaluation")
    assert all({f"compute_{step}", f"instance_type_{step}"} <= set(NAMED) for step in steps)
    assert {NAMED[f"compute_{step}"].default for step in steps} == {"serverless"}


def values(**more):
    names = ("num_nodes_finetune", "number_of_gpu_to_use_finetuning", "cpu_processes_finetune", "strict_compute")
    return {name: NAMED[name].default for name in names} | {"apply_deepspeed": "false"} | more


EIGHT = {"number_of_gpu_to_use_finetuning": 8}


@pytest.mark.parametrize(
    ("requested", "gpus_here", "gpus", "processes"),
    [
        pytest.param({}, 0, 0, 1, id="one process on a CPU"),
        pytest.param({}, 4, 1, 1, id="a GPU if there is one"),
        pytest.param(EIGHT, 0, 0, 1, id="GPUs on a machine without"),
        pytest.param(EIGHT, 4, 4, 4, id="a process for each GPU that is here"),
        pytest.param({"number_of_gpu_to_use_finetuning": 2}, 4, 2, 2, id="no more GPUs than are asked for"),
        pytest.param(
            {"number_of_gpu_to_use_finetuning": 2, "num_nodes_finetune": 2}, 8, 4, 4, id="those of two machines"
        ),
        pytest.param(EIGHT | {"apply_deepspeed": "true"}, 8, 8, 8, id="a process for each GPU of DeepSpeed"),
        pytest.param({"cpu_processes_finetune": 3}, 0, 0, 3, id="several processes on a CPU"),
        pytest.param({"cpu_processes_finetune": 3}, 1, 1, 1, id="not where there is a GPU"),
    ],
)
def test_training_holds_a_gpu_a_process_or_the_processes_of_the_cpu(requested, gpus_here, gpus, processes):
    hardware = Hardware(4, 8000, ("H200",) * gpus_here)
    held = training_resources(Resources(cpus=4), values(**requested), hardware)
    assert (held.cpus, held.gpus, held.processes) == (4, gpus, processes)
    assert training_faults(held, values(**requested), hardware) == []


@pytest.mark.parametrize(
    ("requested", "gpus_here", "words"),
    [
        pytest.param(EIGHT, 0, "ask for 8 GPUs, of which 0 would train here", id="no GPU"),
        pytest.param(
            EIGHT | {"num_nodes_finetune": 2}, 8, "ask for 16 GPUs, of which 8 would", id="one machine of two"
        ),
        pytest.param(EIGHT | {"apply_deepspeed": "true"}, 7, "of which 7 would", id="DeepSpeed"),
    ],
)
def test_a_strict_job_is_refused_where_fewer_gpus_would_train(requested, gpus_here, words):
    hardware = Hardware(4, 8000, ("H200",) * gpus_here)
    strict = values(**requested, strict_compute="true")
    (fault,) = training_faults(training_resources(Resources(cpus=4), strict, hardware), strict, hardware)
    assert words in fault


@pytest.mark.parametrize(("requested", "gpus_here"), [({}, 0), (EIGHT, 8)])
def test_a_strict_job_that_has_what_it_asks_for_is_planned(requested, gpus_here):
    hardware, strict = Hardware(4, 8000, ("H200",) * gpus_here), values(**requested, strict_compute="true")
    assert training_faults(training_resources(Resources(cpus=4), strict, hardware), strict, hardware) == []


def test_more_processes_than_cores_are_refused():
    requested, hardware = values(cpu_processes_finetune=5), Hardware(4, 8000)
    held = training_resources(Resources(cpus=4), requested, hardware)
    assert training_faults(held, requested, hardware) == ["cpu_processes_finetune is 5, this machine has 4 cores."]
