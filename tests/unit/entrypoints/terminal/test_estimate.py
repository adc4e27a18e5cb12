"""An estimate as people read it."""

from dataclasses import replace

from mafunzo.entities.estimate import Range
from mafunzo.entrypoints.terminal.estimate import estimate_facts
from tests.support.made_estimate import made_estimate


def test_each_fact_has_a_line():
    assert estimate_facts(made_estimate().at(0.5)) == {
        "model": "tiny-llama:1, in float32 on cpu",
        "rows train": "48 of 50, 8,390 tokens; dropped: 2 it has no assistant message",
        "rows test": "6 of 6, 1,000 tokens",
        "tokens": "25,170 in 3.00 epochs",
        "steps": "36 of 4 rows, 1 evaluation",
        "time": "1.7 h to 2.3 h, with evaluation and saving, after 6 s to start",
        "memory": "1.8 GB to 2.2 GB at the peak, 8.0 GB were free",
        "disk": "300.0 MB, 10.0 GB were free",
        "cost": "0.83 to 1.17, at 0.5 an hour",
    }


def test_an_estimate_of_a_cluster_names_it():
    facts = estimate_facts(replace(made_estimate(), compute="lab"))
    assert facts["measured on"] == "nodes of the Ray cluster 'lab'"


def test_several_processes_are_told_with_what_each_takes_and_all_together():
    total = Range(4 * 10**9, 3_600_000_000, 4_400_000_000)
    facts = estimate_facts(replace(made_estimate(), processes=2, strategy="fsdp", total_memory_bytes=total))
    assert facts["processes"] == "2, fsdp"
    memory = "1.8 GB to 2.2 GB at the peak of a process, 3.6 GB to 4.4 GB of all 2, 8.0 GB were free"
    assert facts["memory"] == memory


def test_without_a_price_there_is_no_cost():
    assert estimate_facts(made_estimate())["cost"] == ""


def test_what_may_end_it_sooner_and_what_lacks_is_told():
    facts = estimate_facts(replace(made_estimate(), stops_early=True, free_disk_bytes=10**8))
    assert facts["time"].endswith("; early stopping may end it sooner")
    assert facts["disk"] == "300.0 MB, 100.0 MB were free: too little, free some or lower save_total_limit"
