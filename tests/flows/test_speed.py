"""The speed of this machine, measured by a process with torch."""

from mafunzo.control.workspace.speed import measure_speed


def test_a_process_measures_this_machine() -> None:
    speed = measure_speed()
    assert speed.flops > 1e8 and speed.free_bytes > 10**8
    assert speed.format in ("float32", "bfloat16", "float16")
